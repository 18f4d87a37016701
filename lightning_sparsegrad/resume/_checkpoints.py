"""Checkpoint files as a command reads them: the run that wrote one, and messages about unusable ones."""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.files._checksums import require_intact
from lightning_sparsegrad.resume._lightning import CLASS_PATH, restores_checkpoint
from lightning_sparsegrad.resume._torch import refused_class
from lightning_sparsegrad.resume.exact_resume import EXACT_RESUME_KEY
from lightning_sparsegrad.untrusted._imports import ImportRefusedError, named_by_checkpoint
from lightning_sparsegrad.untrusted._jsonargparse import find
from lightning_sparsegrad.untrusted._plain import fault_of

CONFIG_KEY = "lightning_sparsegrad_config"
LABEL_NAMES = "lightning_sparsegrad_label_names"
FOLDER_KEY = "lightning_sparsegrad_folder"
HYPER_PARAMETERS = {"model": "hyper_parameters", "data": "datamodule_hyper_parameters"}
_MAPPINGS = (CONFIG_KEY, *HYPER_PARAMETERS.values(), "lightning_sparsegrad_model")
_SAVING = re.compile(r"save|(?<!re)store")
_OF_ODD_VALUES = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    RuntimeError,
    MemoryError,
)  # errors caused by values of a wrong type
_MAX_REASON = 300  # characters


@dataclass(frozen=True)
class StoredRun:
    """The run that wrote a checkpoint, as far as the checkpoint describes it.

    Args:
        path: The checkpoint.
        config: The arguments of the run; only those of the model and the data, if another command line wrote it.
        folder: The working directory of the run; empty if unknown.
        resumes_exactly: Whether random states are in the checkpoint.
        names: The names of the classes; empty for regression, `None` if unknown.
    """

    path: Path
    config: dict[str, Any]
    folder: str = ""
    resumes_exactly: bool = False
    names: list[str] | None = None


def stored_run(path: Path, named: Iterable[str] = ()) -> StoredRun:
    """Return a description of the run that wrote a checkpoint.

    Args:
        path: The checkpoint.
        named: Classes of model and data that the user has named.

    Raises:
        ConfigurationError: If it cannot be read.
    """
    require_intact(path, tensors=False)  # their loader checks them
    try:
        # tensors are not read here and stay on the disk
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch has no common class for faults of a file
        if refused_class(error):  # the user's code may still declare this class to be safe
            return StoredRun(path, {})
        raise ConfigurationError(about_checkpoint(path, error)) from error
    require_mappings(checkpoint, path)
    config = dict(checkpoint.get(CONFIG_KEY) or {})
    folder, is_exact = checkpoint.get(FOLDER_KEY), EXACT_RESUME_KEY in checkpoint
    folder = folder if isinstance(folder, str) else ""
    names = names_in(checkpoint)
    for key, stored in HYPER_PARAMETERS.items() if not config else ():  # written by another LightningCLI
        arguments: Mapping[str, Any] = checkpoint.get(stored) or {}
        if CLASS_PATH in arguments:
            init_args = {name: value for name, value in arguments.items() if not name.startswith("_")}
            config[key] = {"class_path": arguments[CLASS_PATH], "init_args": init_args}
    for key in HYPER_PARAMETERS.keys() & config.keys():
        class_path = config[key].get("class_path") if isinstance(config[key], Mapping) else None
        if isinstance(class_path, str) and (why := _why_not_there(class_path, path, named)) is not None:
            warnings.warn(f"`{path}` names `{class_path}`, which cannot be found: give --{key}.{why}", stacklevel=2)
            del config[key]
    return StoredRun(path, config, folder, is_exact, names)


def _why_not_there(class_path: str, path: Path, named: Iterable[str]) -> str | None:
    """Return why a class is not available, as the end of a message; `None` if it is."""
    try:
        with named_by_checkpoint(path, but=named):
            return "" if find(class_path) is None else None
    except ImportRefusedError as error:
        return f" {error}."


def names_in(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes in a checkpoint; empty for regression, `None` if unknown."""
    stored: Mapping[str, Any] = checkpoint.get("hyper_parameters") or {}
    names = checkpoint.get(LABEL_NAMES) or stored.get("label_names")
    if names is None:
        is_regression = LABEL_NAMES in checkpoint or stored.get("num_labels") == 1  # 0.1 stored no names for regression
        return [] if is_regression else None
    fault = fault_of(names) if isinstance(names, list | tuple) else f"`{type(names).__name__}`"
    if fault:
        raise ConfigurationError(f"A checkpoint should hold the names of its classes as a list. Found {fault}.")
    return [str(name) for name in names]


def require_mappings(checkpoint: Any, path: Any) -> None:
    """Refuse a checkpoint whose configs or arguments are not mappings, or not such as a config file could hold.

    Raises:
        ConfigurationError: If there is one; the message names its key.
    """
    entries = checkpoint if isinstance(checkpoint, Mapping) else {}
    for key, value in [("", checkpoint), *((key, entries.get(key)) for key in _MAPPINGS)]:
        fault = "" if isinstance(value, Mapping) or (key and value is None) else f"`{type(value).__name__}`"
        if key and not fault:
            fault = fault_of(value) or next((f"the key {name!r}" for name in value or () if type(name) is not str), "")
        if fault:
            where = f"its `{key}` should be a mapping of names" if key else "it should be a mapping"
            raise ConfigurationError(about_checkpoint(path, ValueError(f"{where}, found {fault}")))


def is_about_checkpoint(error: BaseException) -> bool:
    """Return whether an error was raised where Lightning or this library finds and restores a checkpoint."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return any(map(restores_checkpoint, frames)) or (
        isinstance(error, _OF_ODD_VALUES) and any(map(_reads_checkpoint, frames))
    )


def _reads_checkpoint(frame: FrameType) -> bool:
    """Return whether a frame is a function of this library that reads the content of a checkpoint."""
    is_ours = str(frame.f_globals.get("__name__")).startswith(f"{__name__.partition('.')[0]}.")
    return is_ours and "checkpoint" in frame.f_locals and not _SAVING.search(frame.f_code.co_name)


def about_checkpoint(path: Any, error: BaseException) -> str:
    """Return a message about a checkpoint that cannot be used, with the reason."""
    unsafe = refused_class(error)
    reason = f"an object of `{unsafe}`, which would run code when loaded" if unsafe else " ".join(str(error).split())
    reason = reason if len(reason) < _MAX_REASON else f"{reason[:_MAX_REASON]}..."
    return (
        f"Parameter `ckpt_path` should name a checkpoint of this model that holds tensors and plain values. "
        f"Found `ckpt_path = {path}`: {reason or type(error).__name__}"
    )
