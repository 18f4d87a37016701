import random
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_sparsegrad.functional import _blocks as blocks
from lightning_sparsegrad.functional import _plans as plans
from lightning_sparsegrad.functional import (
    count_kept,
    derive_key,
    hash_index,
    hashing,
    keep_mask,
    keep_threshold,
    mask_entries_,
    mask_rows_,
    masking,
)
from tests.cases import cases
from tests.nasty import EXAMPLES, FLOATS, assert_equal, assert_same_bits, channels_last, clones, gradients, laid_out

WORD = 2**32
KEY = derive_key("masking")
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "channels_last")


def kept(key: int, index: int, rate: float) -> bool:
    return hash_index(key, index) >= keep_threshold(rate)


def masked_by_loop(tensor: Tensor, key: int, rate: float, *, rescale: bool = False, rows: bool = False) -> Tensor:
    """Walk over the entries in row-major order, one by one."""
    result = tensor.clone()
    factor = torch.tensor(1 / (1 - rate) if rescale else 1.0, dtype=torch.float64)
    for index, position in enumerate(product(*map(range, tensor.shape))):
        counted = (position[0] if position else 0) if rows else index
        value = tensor[position]
        dropped = value * 0  # an infinite or undefined entry becomes undefined
        result[position] = (
            value * factor.to(torch.promote_types(tensor.dtype, torch.float32)) if kept(key, counted, rate) else dropped
        )
    return result


def arrange(tensor: Tensor, layout: str) -> Tensor:
    return channels_last(tensor) if layout == "channels_last" else laid_out(tensor, layout)


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operation that reaches a tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations.append(str(func))
        return func(*args, **(kwargs or {}))


# ---------------------------------------------------------------- against the loop
@cases("layout", LAYOUTS)
@cases("dtype", FLOATS, ids=str)
@cases("rescale", [False, True], ids=["plain", "rescaled"])
@cases(("kernel", "rows"), [(mask_entries_, False), (mask_rows_, True)], ids=["entries", "rows"])
def test_masks_are_those_of_the_loop(kernel, rows, rescale, dtype, layout):
    tensor = arrange(torch.randn(5, 3, 2, 4, generator=torch.Generator().manual_seed(1)).to(dtype), layout)
    expected = masked_by_loop(tensor, KEY, 0.4, rescale=rescale, rows=rows)
    assert 0 < expected.count_nonzero() < expected.numel()
    kernel([tensor], [KEY], [0.4], rescale=rescale)
    assert_equal([tensor], [expected])


@EXAMPLES
@given(tensor=gradients(), key=st.integers(0, 2**64 - 1), rate=st.floats(0, 1), rows=st.booleans())
def test_nasty_gradients_are_masked_as_by_the_loop(tensor, key, rate, rows):
    expected = tensor.clone() if rate == 0 else masked_by_loop(tensor, key, rate, rows=rows)
    (mask_rows_ if rows else mask_entries_)([tensor], [key], [rate])
    assert_equal([tensor], [expected])


@cases("shape", [(), (0,), (0, 3), (3, 0), (1,), (1, 1)], ids=str)
@cases(("kernel", "rows"), [(mask_entries_, False), (mask_rows_, True)], ids=["entries", "rows"])
def test_small_shapes(kernel, rows, shape):
    for key in range(6):
        tensor = torch.ones(shape)
        expected = masked_by_loop(tensor, key, 0.5, rows=rows)
        kernel([tensor], [key], [0.5])
        assert_equal([tensor], [expected])


def test_each_tensor_follows_its_own_key_and_rate():
    tensors = [torch.ones(4, 5), torch.ones(30), torch.ones(30), torch.ones(3)]
    rates = [0.5, 0.2, 0.0, 1.0]
    mask_entries_(tensors, [1, 2, 3, 4], rates)
    assert_equal(
        tensors,
        [masked_by_loop(torch.ones_like(t), k + 1, r) for k, (t, r) in enumerate(zip(tensors, rates, strict=True))],
    )
    with pytest.raises(ValueError, match="4 tensors, 3 keys"):
        mask_entries_(tensors, [1, 2, 3], rates)


def test_rows_of_a_vector_are_its_entries():
    by_row, by_entry = torch.ones(50), torch.ones(50)
    mask_rows_([by_row], [KEY], [0.5])
    mask_entries_([by_entry], [KEY], [0.5])
    assert_equal([by_row], [by_entry])


# ---------------------------------------------------------------- the mask itself
@cases("start", [0, 1, WORD - 7, WORD, 5 * WORD - 3], ids=["0", "1", "over a border", "at a border", "far"])
def test_keep_mask_counts_from_its_start(start):
    mask = keep_mask((2, 3, 4), KEY, 0.5, start=start)
    assert mask.dtype == torch.bool
    assert mask.flatten().tolist() == [kept(KEY, start + i, 0.5) for i in range(24)]


@cases("shape", [(), (0,), (0, 3), (2, 0, 3), (1, 1)], ids=str)
@cases("rate", [0.0, 0.5, 1.0])
def test_keep_mask_has_the_shape_asked_for(shape, rate):
    mask = keep_mask(shape, KEY, rate)
    assert (mask.shape, mask.dtype) == (torch.Size(shape), torch.bool)
    assert mask.flatten().tolist() == [kept(KEY, i, rate) for i in range(mask.numel())]


@pytest.fixture
def block(monkeypatch):
    """Set how many entries are hashed at a time, and treat small tensors like large ones."""

    def set_to(size: int) -> None:
        monkeypatch.setattr(blocks, "_CPU_BLOCK", size)
        monkeypatch.setattr(plans, "SMALL", 0)
        clear()

    def clear() -> None:
        hashing.folded_indices.cache_clear()
        plans.plan_masks.cache_clear()

    yield set_to
    clear()


@pytest.mark.parametrize("size", [1, 8, 64, 1024])
def test_blocks_do_not_change_the_mask(block, size):
    whole = keep_mask((20, 50), KEY, 0.3, start=WORD - 500)
    tensors = [torch.ones(20, 50), torch.ones(50, 20).T, torch.ones(30, 20, 2)[:, :, 1], torch.ones(30, 1).T]
    masked = clones(tensors)
    mask_entries_(masked, [KEY] * 4, [0.3] * 4)
    block(size)
    mask_entries_(tensors, [KEY] * 4, [0.3] * 4)
    assert_same_bits(tensors, masked)
    assert torch.equal(keep_mask((20, 50), KEY, 0.3, start=WORD - 500), whole)
    assert count_kept(1000, KEY, 0.3, torch.device("cpu")) == keep_mask((1000,), KEY, 0.3).sum()


def test_a_tensor_larger_than_a_block_is_masked_throughout():
    size = blocks.block_size(torch.device("cpu"))
    count = size * 2 + 11
    tensor = torch.ones(count)
    mask_entries_([tensor], [KEY], [0.5])
    assert torch.equal(tensor.bool(), keep_mask((count,), KEY, 0.5))
    probes = [0, size - 1, size, 2 * size, count - 1]
    assert tensor[probes].bool().tolist() == [kept(KEY, i, 0.5) for i in probes]


@cases("rescale", [False, True], ids=["plain", "rescaled"])
@cases("dtype", FLOATS, ids=str)
def test_many_tensors_share_a_hash_and_keep_their_own_masks(block, dtype, rescale):
    sizes = [*range(20), 100, 101, 127, 128, 129, 500]
    tensors = [torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype) for size in sizes]
    rates = [(0.2, 0.9, 0.5)[i % 3] for i in range(len(sizes))]
    expected = [
        masked_by_loop(t, key, rate, rescale=rescale) for key, (t, rate) in enumerate(zip(tensors, rates, strict=True))
    ]
    mask_entries_(tensors, range(len(sizes)), rates, rescale=rescale)
    assert_equal(tensors, expected)
    assert sum(int(tensor.count_nonzero()) for tensor in tensors) < sum(sizes)


# ---------------------------------------------------------------- rows of zeros
def embedding(dtype: torch.dtype, rows: Sequence[int], *, count: int = 6000, width: int = 5) -> Tensor:
    """A gradient of zeros, a few of them negative, with normal entries in some rows."""
    tensor = torch.zeros(count, width)
    tensor[50:60] = -0.0
    tensor[list(rows)] = torch.randn(len(rows), width, generator=torch.Generator().manual_seed(3))
    return tensor.to(dtype)


scattered = masking._scattered_rows


@cases("rescale", [False, True], ids=["plain", "rescaled"])
@cases("dtype", FLOATS, ids=str)
def test_rows_of_zeros_are_passed_over_without_changing_a_bit(monkeypatch, dtype, rescale):
    tensor = embedding(dtype, [*range(100, 400), 5998])
    tiny = torch.finfo(dtype).smallest_normal  # its square is zero
    tensor[1] = torch.tensor([tiny, float("inf"), float("nan"), -2.5, -0.0])
    tensor[5999, 4] = tiny
    actual = scattered(tensor)
    assert actual is not None
    assert set(actual.tolist()) >= {1, *range(100, 400), 5998, 5999}
    expected = tensor.clone()
    mask_entries_([tensor], [KEY], [0.4], rescale=rescale)
    with monkeypatch.context() as patch:
        patch.setattr(masking, "_scattered_rows", lambda _: None)
        mask_entries_([expected], [KEY], [0.4], rescale=rescale)
    assert_same_bits([tensor], [expected])


def test_wide_rows_of_an_embedding_are_masked_block_by_block(block):
    tensor = embedding(torch.float32, range(0, 6000, 40), width=16)
    assert scattered(tensor) is not None
    expected = tensor * keep_mask(tensor.shape, KEY, 0.4)
    block(64)
    mask_entries_([tensor], [KEY], [0.4])
    assert_equal([tensor], [expected])


@cases("rate", [1.0, 1 - 2**-40])
def test_rate_one_drops_all_of_scattered_rows(rate):
    tensor = embedding(torch.float32, range(0, 6000, 40))
    assert scattered(tensor) is not None
    mask_entries_([tensor], [KEY], [rate])
    assert not tensor.any()


def test_a_contiguous_column_with_any_stride_is_masked():
    column = torch.zeros(1, 9000).T  # contiguous, although its strides are (1, 9000)
    column[::50] = 1
    assert column.is_contiguous()
    expected = column * keep_mask(column.shape, KEY, 0.5)
    mask_entries_([column], [KEY], [0.5])
    assert_equal([column], [expected])


def test_a_default_device_elsewhere_changes_nothing():
    tensors = [torch.ones(40), torch.ones(20_000), embedding(torch.float32, range(0, 6000, 40))]
    expected = clones(tensors)
    mask_entries_(expected, [1, 2, 3], [0.5] * 3)
    hashing.folded_indices.cache_clear()
    with torch.device("meta"):
        mask_entries_(tensors, [1, 2, 3], [0.5] * 3)
    assert_same_bits(tensors, expected)


def test_what_has_few_rows_of_zeros_is_masked_as_a_whole():
    assert scattered(embedding(torch.float32, range(0, 6000, 2))) is None  # too many
    assert scattered(embedding(torch.float32, range(100, 2000))) is None  # seen at the second look only
    assert scattered(embedding(torch.float32, [1], count=600)) is None
    assert scattered(torch.zeros(6000)) is None
    assert scattered(torch.zeros(5, 6000).T) is None
    assert scattered(torch.zeros(6000, 5)) is not None


def test_the_mask_stays_what_it_is():
    golden = "1011100001101111101011111011011110001110011110111111111101100111"
    assert "".join(str(int(keep)) for keep in keep_mask((64,), derive_key("GradDrop", 0, "w", 0), 0.3)) == golden


@EXAMPLES
@given(key=st.integers(0, 2**64 - 1), low=st.floats(0, 1), high=st.floats(0, 1))
def test_what_a_high_rate_keeps_a_low_rate_keeps(key, low, high):
    low, high = sorted((low, high))
    assert (keep_mask((200,), key, low) | ~keep_mask((200,), key, high)).all()


# ---------------------------------------------------------------- limits
@cases("kernel", [mask_entries_, mask_rows_])
def test_rate_zero_launches_nothing_and_changes_no_bit(kernel):
    tensors = [
        torch.tensor([[0.0, -0.0, 1e-45], [float("nan"), float("-inf"), 3.0]]),
        torch.ones(3, 2).T,
        torch.ones(()),
    ]
    before = clones(tensors)
    with Counter() as counter:
        kernel(tensors, [1, 2, 3], [0, 0.0, 0])
    assert counter.operations == []
    assert_same_bits(tensors, before)
    with Counter() as counter:
        kernel(tensors, [1, 2, 3], [0, 0.5, 0])
    assert counter.operations


@cases("kernel", [mask_entries_, mask_rows_])
@cases("rate", [1.0, 1 - 2**-40])
def test_rate_one_drops_all(kernel, rate):
    tensors = [torch.full((300, 4), 2.0), torch.full((), 2.0), torch.full((6, 50), 2.0).T]
    kernel(tensors, [KEY, 1, 2], [rate] * 3)
    assert not any(tensor.any() for tensor in tensors)


@cases("value", [float("inf"), float("-inf"), float("nan")])
@cases("dtype", FLOATS, ids=str)
@cases("rescale", [False, True], ids=["plain", "rescaled"])
def test_an_overflow_stays_visible_dropped_or_kept(value, dtype, rescale):
    tensor = torch.full((40,), value, dtype=dtype)
    mask_entries_([tensor], [KEY], [0.5], rescale=rescale)
    mask = keep_mask((40,), KEY, 0.5)
    assert tensor[~mask].isnan().all()
    assert_equal([tensor[mask]], [torch.full_like(tensor[mask], value)])


def test_rescaling_keeps_the_expectation():
    mean = torch.stack([_rescaled(key) for key in range(400)]).mean(dim=0)
    assert (mean - 1).abs().max() < 5 * (0.75 / 0.25 / 400) ** 0.5


def _rescaled(key: int) -> Tensor:
    tensor = torch.ones(30)
    mask_entries_([tensor], [derive_key("rescale", key)], [0.75], rescale=True)
    return tensor


@cases("rate", [0.0, 0.3, 1.0])
@cases("count", [0, 1, 1000])
def test_count_kept_counts_the_mask(rate, count):
    total = count_kept(count, KEY, rate, torch.device("cpu"))
    assert (total.ndim, total.dtype) == (0, torch.int64)
    assert total.item() == keep_mask((count,), KEY, rate).sum().item()


def numpy_state() -> tuple[list[int], int]:
    state = np.random.get_state(legacy=False)["state"]
    return state["key"].tolist(), state["pos"]


def test_masks_leave_all_random_states_alone():
    states = torch.get_rng_state(), random.getstate(), numpy_state()
    mask_entries_([torch.ones(100), torch.ones(3, 4).T], [1, 2], [0.5, 0.5], rescale=True)
    mask_rows_([torch.ones(100, 2)], [3], [0.5])
    count_kept(100, 5, 0.5, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert numpy_state() == states[2]
