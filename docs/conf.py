"""Configuration of Sphinx."""

import sys
from importlib.util import find_spec
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))  # for `docs`, and the package where it is not installed

import lightning_sparsegrad  # noqa: E402
from docs import _pages  # noqa: E402  # what stands above finds it

project = "lightning-sparsegrad"
author = "The authors of lightning-sparsegrad"
html_title = project
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_*.md"]
nitpicky = True
_exported = "|".join(lightning_sparsegrad.__all__)
nitpick_ignore_regex = [  # types in signatures that have no page here: of other libraries, whose sites are not asked
    ("py:.*", r"(?!lightning_sparsegrad\b).*"),
    ("py:class", rf"lightning_sparsegrad\.(.*\.)?(?!({_exported})$)\w+"),  # and what is not exported
]
default_role = "code"  # `x`, in docstrings, is code

autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False  # a hook that Lightning documents is documented there
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 60

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {"navigation_with_keys": True}

# MathJax from a wheel, so that neither the build nor the site needs another host. The component that draws SVG is one
# file, with its fonts inside.
_mathjax = find_spec("sphinx-mathjax-offline")
if _mathjax is None or _mathjax.origin is None:
    raise ImportError("`pip install lightning-sparsegrad[docs]` installs what the site is built with")
html_static_path.append(str(Path(_mathjax.origin).parent / "static" / "mathjax" / "tex-svg-full.js"))
mathjax_path = "tex-svg-full.js"
mathjax3_config = {"tex": {"packages": {"[+]": ["textmacros"]}}}  # `\_` in `\text`, as in TeX


setup = _pages.setup
