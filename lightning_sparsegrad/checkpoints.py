"""What a command takes from a checkpoint file, and what it says about one that it cannot use."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pydoc import locate
from traceback import walk_tb
from typing import Any
from zipfile import is_zipfile

import torch
from lightning.pytorch.trainer.connectors import checkpoint_connector

from lightning_sparsegrad.errors import ConfigurationError

CONFIG_KEY = "lightning_sparsegrad_config"
LABEL_NAMES = "lightning_sparsegrad_label_names"
HYPER_PARAMETERS = {"model": "hyper_parameters", "data": "datamodule_hyper_parameters"}
_UNSAFE = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")
_RESTORING = re.compile(r"restore|resume|select_ckpt|parse_ckpt")
_MAX_REASON = 300  # characters


def stored_config(path: Path) -> dict[str, Any]:
    """Return the model and the data that a checkpoint says it is of."""
    try:
        checkpoint = _read(path)
        config = dict(checkpoint.get(CONFIG_KEY) or {})
    except Exception as error:  # torch has no one class for what is wrong with a file
        if _UNSAFE.search(str(error)):  # a class that the user's own code may yet declare to be safe
            return {}
        raise ConfigurationError(about_checkpoint(path, error)) from error
    for key, stored in HYPER_PARAMETERS.items() if not config else ():  # written by another LightningCLI
        arguments: Mapping[str, Any] = checkpoint.get(stored) or {}
        if "_class_path" in arguments:
            init_args = {name: value for name, value in arguments.items() if not name.startswith("_")}
            config[key] = {"class_path": arguments["_class_path"], "init_args": init_args}
    for key, value in list(config.items()):
        if "class_path" in value and locate(value["class_path"]) is None:
            warnings.warn(f"`{path}` is of `{value['class_path']}`, which is not found: give --{key}.", stacklevel=2)
            del config[key]
    return config


def stored_names(path: Path) -> list[str] | None:
    """Return what `names_in` does of a checkpoint file that `stored_config` has read."""
    try:
        return names_in(_read(path))
    except Exception as error:
        if _UNSAFE.search(str(error)):
            return None
        raise


def names_in(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes that a checkpoint is of; empty for regression, `None` if it does not tell."""
    stored: Mapping[str, Any] = checkpoint.get("hyper_parameters") or {}
    names = checkpoint.get(LABEL_NAMES) or stored.get("label_names")
    if names is None and (
        LABEL_NAMES in checkpoint or stored.get("num_labels") == 1
    ):  # 0.1 stored none of a regression
        return []
    return None if names is None else [str(name) for name in names]


def _read(path: Path) -> Any:
    # the weights, which nothing here looks at, stay on the disk
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))


def is_about_checkpoint(error: BaseException) -> bool:
    """Return whether an error comes from what Lightning does to find and restore a checkpoint."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return any(
        frame.f_globals.get("__name__") == checkpoint_connector.__name__ and _RESTORING.search(frame.f_code.co_name)
        for frame in frames
    )


def about_checkpoint(path: Any, error: BaseException) -> str:
    """Return a sentence about a checkpoint that could not be used, and why."""
    unsafe = _UNSAFE.search(str(error))
    found = f"an object of `{unsafe[1]}`, and to build it would run code" if unsafe else " ".join(str(error).split())
    found = found if len(found) < _MAX_REASON else f"{found[:_MAX_REASON]}..."
    return (
        f"Parameter `ckpt_path` should name a checkpoint of this model that holds tensors and plain values. "
        f"Found `ckpt_path = {path}`: {found or type(error).__name__}"
    )
