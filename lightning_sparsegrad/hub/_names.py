"""Names of models and data: hub ids, local paths, and files inside installed distributions."""

import json
import os
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from importlib.util import find_spec, module_from_spec
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from lightning_sparsegrad.errors import ConfigurationError, near_matches

PACKAGE_PREFIX = "package:"


def resolve_source(name: str) -> str:
    """Return `name`, or the local path of a source written `package:<distribution>/<path inside it>`.

    Any other path is taken literally, whatever characters it has: it is not a pattern (`*`, `?`, `[`), not a URL or a
    chain of URLs (`::`), and has no variables (`$`). Only a leading `~` is expanded to the home folder, as in a shell,
    unless a file or folder of that very name exists.

    Some distributions contain weights or data. The path begins with one of their import packages, which is not
    imported. A path cannot leave the files that the distribution recorded at its installation, neither by `..` nor by a
    link. An editable installation records no files; there the path cannot leave its project folder.

    Args:
        name: A hub id, a local path, or `package:<distribution>/<path inside it>`.

    Returns:
        The absolute path of the file or folder inside the distribution; any other `name` unchanged except for a `~`.

    Raises:
        ConfigurationError: If the distribution is not installed, or has no such file or folder.

    Example:
        >>> resolve_source("bert-base-uncased")
        'bert-base-uncased'
        >>> Path(resolve_source("package:vaderSentiment/vaderSentiment/vader_lexicon.txt")).name
        'vader_lexicon.txt'
    """
    if not name.startswith(PACKAGE_PREFIX):
        return os.path.expanduser(name) if name.startswith("~") and not os.path.lexists(name) else name  # noqa: PTH111  # raises no error for an unknown user
    package, _, inside = name.removeprefix(PACKAGE_PREFIX).partition("/")
    path = PurePosixPath(inside)
    if not package or not path.parts or path.is_absolute() or ".." in path.parts:
        raise ConfigurationError(
            f"A source in a package should be `package:<distribution>/<path inside it>`, without `..`. Found `{name}`."
        )
    try:
        installed = distribution(package)
    except PackageNotFoundError as error:
        raise ConfigurationError(
            f"Package `{package}` should be installed: run `pip install {package}`. Found `{name}`."
        ) from error

    target = _inside(installed, path)
    if target is None:
        names = {str(parent) for file in installed.files or () for parent in (file, *file.parents)} - {"."}
        raise ConfigurationError(
            f"Package `{package}` has no file or folder `{inside}`. Found `{name}`.{near_matches(inside, names)}"
        )
    return str(target)


def _inside(installed: Distribution, path: PurePosixPath) -> Path | None:
    """Return the location of `path` if the distribution's record or project contains it, without importing it."""
    spec = find_spec(path.parts[0]) if path.parts[0].isidentifier() else None
    if spec is None or spec.submodule_search_locations is None:
        return None
    target = files(module_from_spec(spec))  # does not run the module
    for name in path.parts[1:]:
        target = target.joinpath(name)
    if not isinstance(target, Path) or not target.exists():  # a folder in an archive cannot be opened
        return None
    recorded = installed.files or []
    if path in recorded:  # compared by name, since installers may link files from their cache
        return target
    home = _editable_project(installed)
    if home is None and any(path in file.parents for file in recorded):
        home = Path(str(installed.locate_file("")))
    return target if home is not None and target.resolve().is_relative_to(home.resolve()) else None


def _editable_project(installed: Distribution) -> Path | None:
    """Return the project folder that an editable install points to (PEP 610), or `None` for a regular install."""
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(url2pathname(unquote(urlsplit(origin["url"]).path)))
