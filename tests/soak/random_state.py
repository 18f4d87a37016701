"""The global random generators, from which only the user may draw."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def untouched_random_state() -> Iterator[None]:
    """Assert that no global generator was drawn from."""
    torch_before, python_before, numpy_before = torch.get_rng_state(), random.getstate(), _numpy_state()
    yield
    assert torch.equal(torch.get_rng_state(), torch_before), "torch's generator was drawn from"
    assert random.getstate() == python_before, "Python's generator was drawn from"
    assert _numpy_state() == numpy_before, "numpy's generator was drawn from"


def _numpy_state() -> tuple[bytes, int]:
    state = np.random.get_state(legacy=False)["state"]
    return state["key"].tobytes(), state["pos"]
