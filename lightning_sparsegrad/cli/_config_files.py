"""Config files of a command, each read once; later reads return the same text until the arguments are parsed."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import yaml
from jsonargparse.typing import Path, Path_fr

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.files._shipped import config_file
from lightning_sparsegrad.untrusted._safe_yaml import load

_texts: ContextVar[dict[str, tuple[str, str]] | None] = ContextVar("config files of the command", default=None)


@contextmanager
def each_read_once() -> Iterator[None]:
    """Read each file once and keep its text: a pipe can be read only once, and a file may change meanwhile."""
    if _texts.get() is not None:
        yield
        return
    token = _texts.set({})
    try:
        yield
    finally:
        _texts.reset(token)


def texts() -> list[tuple[str, str]]:
    """Return the names of the files read so far, as the command gave them, with their texts; the last file first."""
    return [*reversed((_texts.get() or {}).values())]


def located(value: Any) -> Any:
    """Return the file that a value of `--config` names, see `config_file`; anything but text as it is."""
    return config_file(value) if isinstance(value, str) else value


def read_config(value: Any) -> Any:
    """Return the content of the file that `value` names, if it names one."""
    try:
        return load(Path_fr(value).read_text()) if isinstance(value, str) and "\0" not in value else value
    except (TypeError, yaml.YAMLError):  # no file, or none that jsonargparse will accept
        return value


def _read_text(self: Path) -> str:
    known = _texts.get()
    if known is not None and self.absolute in known:
        return known[self.absolute][1]
    try:
        text = _read(self)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"Config files should be text in UTF-8. Found `{self}`: {error}.") from error
    if known is not None:
        known[self.absolute] = (str(self), text)
    return text


# jsonargparse reads every file, URL and pipe that a flag or a config names with this method
_read = Path.read_text
if _read.__module__ != __name__:  # not yet replaced
    Path.read_text = _read_text  # type: ignore[method-assign]
