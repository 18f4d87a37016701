"""What the processes wrote down, and how it is compared with what one process does."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sparsegrad import GradientTransform
from tests.launch import launch
from tests.transforms.small import Snapshot, bits

from .processes import CASES

Results = dict[str, list[Any]]  # by case, what each rank wrote down


@cache
def results_of(count: int) -> Results:
    """Run all cases in some processes, once for all tests."""
    with TemporaryDirectory() as folder:
        launch("tests.sharding.processes", count, Path(folder))
        return {name: [torch.load(Path(folder, f"{name} {rank}.pt")) for rank in range(count)] for name in CASES}


def flat(value: Any) -> list[Any]:
    """Return the leaves of what a rank wrote down, tensors as bytes."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in (key, *flat(value[key]))]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in flat(each)]
    return [bits(value).numpy().tobytes()] if isinstance(value, Tensor) else [value]


def assert_alike(found: Any, expected: Any, *, to_the_bit: bool) -> None:
    """Compare gradients and statistics; where nothing adds up over ranks, bit for bit."""
    (gradients, statistics), (wanted, told) = found, expected
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert_gradients_alike(ours, theirs, to_the_bit=to_the_bit)
    assert statistics == pytest.approx(told, rel=1e-5)


def assert_gradients_alike(found: Snapshot, expected: Snapshot, *, to_the_bit: bool) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        other = expected[name]
        if gradient is None or other is None:
            assert gradient is other, name
            continue
        assert torch.equal(gradient == 0, other == 0), name
        if to_the_bit:
            assert torch.equal(bits(gradient), bits(other)), name
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-8, msg=name)


def sums_up(transform: GradientTransform) -> bool:
    return "norm" in transform.bounds
