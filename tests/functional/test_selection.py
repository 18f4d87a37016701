"""The selection of the largest scores against a sorted list, and masks packed into bits."""

from collections.abc import Sequence
from math import isnan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparsegrad.functional import pack_bits, select_largest, unpack_bits
from tests.cases import cases
from tests.nasty import EXAMPLES, LAYOUTS, laid_out

NUMBERS = [0.0, -0.0, 1.0, 1.0, 1.0, -1.0, 2.5, float("nan"), float("inf"), -float("inf"), 1e-45, -1e-45, 3e38, 1e-8]


def largest_by_sorting(scores: Sequence[Tensor], count: int) -> list[list[bool]]:
    """Sort all scores together: the largest first, of equal ones the first, NaN last."""
    numbers = [value for tensor in scores for value in tensor.float().flatten().tolist()]
    order = sorted(range(len(numbers)), key=lambda i: (isnan(numbers[i]), 0.0 if isnan(numbers[i]) else -numbers[i], i))
    chosen, start, masks = set(order[:count]), 0, []
    for tensor in scores:
        masks.append([index in chosen for index in range(start, start + tensor.numel())])
        start += tensor.numel()
    return masks


def assert_selects(scores: Sequence[Tensor], count: int) -> None:
    before = [tensor.clone() for tensor in scores]
    masks = select_largest(scores, count)
    assert [mask.flatten().tolist() for mask in masks] == largest_by_sorting(scores, count)
    for tensor, mask, was in zip(scores, masks, before, strict=True):
        assert (mask.shape, mask.dtype) == (tensor.shape, torch.bool)
        assert torch.equal(tensor.isnan(), was.isnan())
        assert torch.equal(tensor.nan_to_num(), was.nan_to_num()), "the scores were changed"


@st.composite
def many_scores(draw: st.DrawFn) -> list[Tensor]:
    """Draw scores with ties, in tensors of any layout, some of them empty or 0-d."""
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
    shapes = draw(st.lists(st.sampled_from([(), (0,), (0, 3), (1,), (7,), (3, 4), (2, 0, 3), (2, 3, 2)]), max_size=4))
    scores = []
    for shape in shapes:
        size = torch.Size(shape).numel()
        numbers = draw(st.lists(st.sampled_from(NUMBERS), min_size=size, max_size=size))
        tensor = torch.tensor(numbers, dtype=torch.float64).to(dtype).view(shape)
        scores.append(laid_out(tensor, draw(st.sampled_from(LAYOUTS))))
    return scores


@EXAMPLES
@given(scores=many_scores(), share=st.floats(0, 1))
def test_it_selects_what_a_sorted_list_begins_with(scores: list[Tensor], share: float) -> None:
    assert_selects(scores, round(share * sum(tensor.numel() for tensor in scores)))


@cases("count", [0, 1, 500, 999, 1000, 1001, 5000])
def test_the_count_is_exact_where_all_are_equal(count: int) -> None:
    """A percentile as threshold keeps all 1000 of them, or none."""
    masks = select_largest([torch.ones(300), torch.ones(70, 10)], count)
    chosen = torch.cat([mask.flatten() for mask in masks])
    assert torch.equal(chosen, torch.arange(1000) < count)


@cases("count", [1, 37, 2**17])
def test_scores_that_share_all_but_their_last_bits(count: int) -> None:
    """Neighbours in float32, each of another rank: a histogram of fewer bits cannot tell them apart."""
    near = (torch.arange(2**18, dtype=torch.int32) + 0x3F800000 - 5).view(torch.float32)
    order = torch.randperm(2**18, generator=torch.Generator().manual_seed(0))
    (mask,) = select_largest([near[order]], count)
    assert torch.equal(mask, order >= 2**18 - count)


def test_integers_are_compared_as_integers() -> None:
    """Neighbours that float32 does not tell apart."""
    scores = torch.tensor([2**31 - 1, 2**31 - 2, -(2**31), -(2**31) + 1, 2**31 - 3], dtype=torch.int32)
    assert [select_largest([scores], count)[0].tolist() for count in (1, 4)] == [
        [True, False, False, False, False],
        [True, True, False, True, True],
    ]


def test_bits_are_packed_the_first_into_the_lowest() -> None:
    mask = torch.tensor([[True, False, False, True, False], [False, False, False, True, True]])
    packed = pack_bits(mask)
    assert (packed.tolist(), packed.dtype) == ([0b00001001, 0b11], torch.uint8)
    assert torch.equal(unpack_bits(packed, (2, 5)), mask)


@EXAMPLES
@given(bits=st.lists(st.booleans(), max_size=40))
def test_what_is_unpacked_is_what_was_packed(bits: list[bool]) -> None:
    mask = torch.tensor(bits, dtype=torch.bool)
    packed = pack_bits(mask)
    assert packed.tolist() == [sum(bit << i for i, bit in enumerate(bits[k : k + 8])) for k in range(0, len(bits), 8)]
    assert torch.equal(unpack_bits(packed, (len(bits),)), mask)
    assert torch.equal(unpack_bits(pack_bits(mask.view(-1, 1).mT), (1, len(bits))), mask.view(1, -1))


@pytest.mark.long
def test_more_scores_than_a_quantile_takes() -> None:
    """`torch.quantile`, the usual way to such a threshold, refuses more than 2^24 numbers."""
    scores = torch.arange(2**24 + 100, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(scores.float(), 0.5)
    (mask,) = select_largest([scores], 10)
    assert mask.nonzero().flatten().tolist() == list(range(2**24 + 90, 2**24 + 100))
