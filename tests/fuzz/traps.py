"""Functions and classes that no config needs, and the positions in which jsonargparse would call them."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser, _typehints, _util

from lightning_sparsegrad.untrusted import _imports as imports
from lightning_sparsegrad.untrusted import _jsonargparse as _jsonargparse
from tests.fuzz import trap
from tests.fuzz.cases import MARK
from tests.fuzz.material import spec, to_yaml

SCRIPT = "script.py"  # beside the config
_TOUCH = {"command": f"touch {MARK}"}
_SOURCE = f"open({MARK!r}, 'w')\ndef act(x): return 1.0\n"
# its constructor starts a program
_LAUNCHER = "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler"
NAMED: dict[str, dict[str, Any]] = {
    "os.system": spec("os.system", **_TOUCH),
    "posix.system": spec("posix.system", **_TOUCH),
    "os.system of torch": spec("torch.os.system", **_TOUCH),
    "subprocess.getoutput": spec("subprocess.getoutput", cmd=f"touch {MARK}"),
    "runpy.run_path": spec("runpy.run_path", path_name=SCRIPT),
    "a compiler of torch": spec("torch.fx.graph_module._method_from_src", method_name="act", src=_SOURCE, globals={}),
    "a function without a type": spec(f"{trap.__name__}.make", **_TOUCH),
    "a function of another type": spec(f"{trap.__name__}.makes_a_path", **_TOUCH),
    "subprocess.Popen": spec("subprocess.Popen", args=f"touch {MARK}", shell=True),  # noqa: S604  # it is not run
    "a class of torch": spec(
        _LAUNCHER, entrypoint="touch", args=[MARK], env={}, stdout=None, stderr=None, local_rank_id=0
    ),
}
# jsonargparse itself makes no object of these where a callable or something of a class is asked for
_CLASSES = ("subprocess.Popen", "a class of torch")


def _adafactor(value: Any) -> dict[str, Any]:
    return {"model": {"init_args": {"optimizer": spec("transformers.Adafactor", eps=value)}}}


def _lambdas(value: Any) -> dict[str, Any]:
    return {"model": {"init_args": {"lr_scheduler": spec("LambdaLR", lr_lambda=value)}}}


# What is in a list where there is no type is left out: jsonargparse leaves it as it is.
_FOR_ANY: dict[str, Callable[[Any], dict[str, Any]]] = {
    "without a type": _adafactor,
    "without a type, as text": lambda named: _adafactor(json.dumps(named)),
    "without a type, in a dict": lambda named: {"trainer": {"logger": spec("MLFlowLogger", tags={"a": named})}},
}
_FOR_CALLABLES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "optimizer": lambda named: {"model": {"init_args": {"optimizer": named}}},
    "scheduler": lambda named: {"model": {"init_args": {"lr_scheduler": named}}},
    "callable in a scheduler": _lambdas,
    "callables in a scheduler": lambda named: _lambdas([named, named]),
    "callable in a callback": lambda named: {"trainer": {"callbacks": spec("LambdaCallback", on_fit_start=named)}},
    "callable in a strategy": lambda named: {"trainer": {"strategy": spec("DDPStrategy", ddp_comm_hook=named)}},
}
POSITIONS = {**_FOR_ANY, **_FOR_CALLABLES}
TRAPS = [(position, name) for position in POSITIONS for name in NAMED if position in _FOR_ANY or name not in _CLASSES]


def sample() -> Iterator[tuple[str, str]]:
    """Yield traps that cover every position and every name."""
    names = list(NAMED)
    for number, position in enumerate(POSITIONS):
        yield next((position, name) for name in names[number:] + names if (position, name) in TRAPS)
    yield from (("without a type", name) for name in _CLASSES)


# by default: of every way in which jsonargparse calls what is named, one
FEW = [
    ("without a type", "os.system"),
    ("optimizer", "a function without a type"),
    ("callable in a scheduler", "subprocess.getoutput"),
    ("without a type", "a class of torch"),
]


def overlay(position: str, name: str) -> bytes:
    """Return a config with a name at a position."""
    return to_yaml(POSITIONS[position](NAMED[name]))


def set_up(folder: Path) -> None:
    """Write the files that traps need, and reset the record of sprung traps."""
    folder.mkdir(exist_ok=True)
    (folder / SCRIPT).write_text(f"open({MARK!r}, 'w')\n")
    trap.called.clear()


def has_sprung(folder: Path, patience: float = 0.0) -> bool:
    """Return whether a trap has sprung, or springs within some seconds, since some start a process."""
    end = time.monotonic() + patience
    while not (sprung := bool(trap.called) or (folder / MARK).exists()) and time.monotonic() < end:
        time.sleep(0.05)
    return sprung


def take_guards_away(patch: pytest.MonkeyPatch) -> None:
    """Let jsonargparse import and call everything that it would without this library."""
    for module in (_util, _typehints):
        patch.setattr(module, "check_import_path", lambda _path: None)
    patch.setattr(imports, "require_importable", lambda _path: None)
    patch.setattr(ArgumentParser, "_check_value_key", _jsonargparse._check_value)
    patch.setattr(_typehints, "adapt_partial_callable_class", _jsonargparse._adapt_class)
