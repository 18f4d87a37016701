"""Configs that come with the package, by name: `quickstart`, `gradient/cgnc`."""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

_SUFFIX = ".yaml"


@cache
def shipped_configs() -> Mapping[str, Path]:
    """Return the file of each name, sorted by name; a name is a path below `configs`, without its suffix."""
    package = Path(__file__).parents[1]
    folder = package / "configs"  # of a wheel
    if not folder.is_dir() and (package.parent / "pyproject.toml").is_file():
        folder = package.parent / "configs"  # of a checkout
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob(f"*{_SUFFIX}")}
    return dict(sorted(names.items()))


def config_file(name: str) -> str:
    """Return the file that a name stands for: the user's own, with or without `.yaml`, before one of the package.

    Args:
        name: What was given as a config file.

    Returns:
        The path of a file; whatever else was given as it is: a pipe, a URL, a config written out, a name of no file.
    """
    if _exists(name):
        return name
    if _exists(f"{name}{_SUFFIX}"):
        return f"{name}{_SUFFIX}"
    return str(shipped_configs().get(name.removesuffix(_SUFFIX), name))  # by a list of names: none leads out of it


def _exists(name: str) -> bool:
    with suppress(OSError, ValueError):  # a text that can be no name: too long, or with a NUL
        path = Path(name)
        return path.exists() and not path.is_dir()
    return False
