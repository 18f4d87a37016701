"""The laws of the GPU benchmark, on a CPU and, where there is one, on a GPU."""

import sys

import pytest
import torch

from benchmarks.gpu.laws import LAWS, UnsupportedError
from benchmarks.gpu.laws._law import every_strategy
from lightning_sparsegrad import transforms

SLOW = frozenset({"the compiled mask has the bits of the eager one", "the Trainer of transformers trains"})  # over 2 s
NAMES = [pytest.param(name, marks=[pytest.mark.long] * (name in SLOW), id=name.replace(" ", "-")) for name in LAWS]


def hold(name: str, device: torch.device) -> None:
    """Check a law; skip the test where it cannot be."""
    try:
        figures = LAWS[name](device)
    except UnsupportedError as error:
        pytest.skip(str(error))
    finally:
        if "accelerate.state" in sys.modules:  # which keeps the precision of a run for the next one
            sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)
    assert figures


@pytest.mark.parametrize("name", NAMES)
def test_law_on_the_cpu(name: str) -> None:
    hold(name, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", list(LAWS))
def test_law_on_a_gpu(name: str) -> None:
    hold(name, torch.device("cuda"))


def test_every_exported_strategy_is_taken_along(monkeypatch: pytest.MonkeyPatch) -> None:
    class New(transforms.ValueClip):
        def __init__(self, share: float) -> None:
            super().__init__(share)

    monkeypatch.setattr(transforms, "__all__", [*transforms.__all__, "New"])
    monkeypatch.setattr(transforms, "New", New, raising=False)
    with pytest.raises(AssertionError, match="New needs"):
        every_strategy()
