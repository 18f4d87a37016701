"""The random states of a process, as numbers and tensors that load with `weights_only=True`."""

import random
from types import ModuleType
from typing import Any

import numpy as np
import torch

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the global random states of Python, NumPy, torch on the CPU, and torch on `device`."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": _python_state(random.getstate()),
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "numbers": [int(position), int(has_gauss), float(cached)],
        },
        "torch": torch.get_rng_state(),
    }
    if (accelerator := _accelerator(device)) is not None:
        states[device.type] = accelerator.get_rng_state(*_device_arguments(device))
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Restore what `random_states` returned; on another kind of device, only the states of the CPU."""
    numpy = states["numpy"]
    random.setstate(_from_python_state(states["python"]))
    np.random.set_state((numpy["kind"], numpy["keys"].numpy().astype(np.uint32), *numpy["numbers"]))
    torch.set_rng_state(states["torch"])
    if (accelerator := _accelerator(device)) is not None and device.type in states:
        accelerator.set_rng_state(states[device.type], *_device_arguments(device))


def generator_state(generator: Any) -> Any:
    """Return the state of one of `GENERATORS`."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return _python_state(generator.getstate())
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    return _plain(generator.get_state(legacy=False))


def set_generator_state(generator: Any, state: Any) -> None:
    """Restore what `generator_state` returned."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(_from_python_state(state))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _python_state(state: Any) -> dict[str, Any]:
    version, words, gauss = state
    return {"version": version, "words": torch.tensor(words), "gauss": gauss}


def _from_python_state(state: dict[str, Any]) -> tuple[Any, ...]:
    return state["version"], tuple(state["words"].tolist()), state["gauss"]


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def _accelerator(device: torch.device) -> ModuleType | None:
    return None if device.type == "cpu" else torch.get_device_module(device)


def _device_arguments(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # there is only one
