"""The random states of a process, as numbers and tensors that load with `weights_only=True`."""

import random
from types import ModuleType
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the global random states: of Python, NumPy, torch on the CPU, and torch on `device` if it is another."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "numbers": [int(position), int(has_gauss), float(cached)],
        },
        "torch": torch.get_rng_state(),
    }
    if (accelerator := _accelerator(device)) is not None:
        states[device.type] = accelerator.get_rng_state(*_place(device))
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Restore what `random_states` returned; on another kind of device, what is for the CPU."""
    python, numpy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state((numpy["kind"], numpy["keys"].numpy().astype(np.uint32), *numpy["numbers"]))
    torch.set_rng_state(states["torch"])
    if (accelerator := _accelerator(device)) is not None and device.type in states:
        accelerator.set_rng_state(states[device.type], *_place(device))


def _accelerator(device: torch.device) -> ModuleType | None:
    return None if device.type == "cpu" else torch.get_device_module(device)


def _place(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # of which there is one
