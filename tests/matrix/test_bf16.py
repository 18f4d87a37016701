"""Training without a scaler in fewer bits: bf16 and fp16 weights, and bf16 arithmetic on fp32 weights."""

from functools import partial

import pytest
import torch

from tests.lightning.tasks import assert_same_weights, weights
from tests.transforms.golden import Golden

from .task import (
    Adaptive,
    Fused,
    Task,
    Witness,
    assert_follows_reference,
    every_row,
    fit,
    in_plain_loop,
    plan,
    rows_that_know_when,
)

BRAIN = partial(torch.autocast, "cpu", torch.bfloat16, cache_enabled=False)
TRUE = {"bf16-true": torch.bfloat16, "16-true": torch.float16}


@every_row
@pytest.mark.parametrize(
    ("door", "kind"), [("module", Adaptive), pytest.param("callback", Fused, marks=pytest.mark.long)]
)
def test_mixed_weights_are_those_of_a_plain_loop(door: str, row: Golden, kind: type[Task]) -> None:
    witness = Witness()
    run = fit(door, row, kind, callbacks=[witness], precision="bf16-mixed")
    assert_same_weights(weights(run), in_plain_loop(row, plan(), kind, autocast=BRAIN))
    assert_follows_reference(row, witness.seen)


@rows_that_know_when("door precision", ("module", "bf16-true"), ("callback", "16-true"))
def test_true_weights_are_those_of_a_plain_loop(door: str, row: Golden, precision: str) -> None:
    witness = Witness()
    run = fit(door, row, callbacks=[witness], precision=precision)
    actual = weights(run)
    assert {weight.dtype for weight in actual.values()} == {TRUE[precision]}
    assert all(weight.isfinite().all() for weight in actual.values())
    assert_same_weights(actual, in_plain_loop(row, plan(), lambda: Task().to(TRUE[precision])))
    assert_follows_reference(row, witness.seen)
