"""Kernels on an accelerator, simulated by meta tensors: nothing is read on the host, and a window needs one copy."""

from collections.abc import Callable
from math import inf

import pytest
import torch
from torch import Tensor

from lightning_sparsegrad.functional import (
    _fused,
    clip_components_,
    clip_values_,
    component_norms,
    count_kept,
    keep_mask,
    mask_entries_,
    mask_rows_,
)
from lightning_sparsegrad.functional._words import send_rows
from lightning_sparsegrad.functional.sharding import norms_over
from tests.cases import cases
from tests.on_meta import META, traffic_of

SHAPES = ((3, 4), (), (0, 3), (5,), (9000, 8), (100, 200), (3, 4, 2), (100, 130))
RATES = [0.5, 0.25, 0.5, 0.0, 0.3, 1.0, 0.5, 0.1]
COUNT = len(SHAPES)


def gradients(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    tensors = [torch.empty(shape, dtype=dtype, device=META) for shape in SHAPES]
    tensors[-1] = tensors[-1].T
    return tensors


# ---------------------------------------------------------------- the watcher itself
@cases(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.equal(x, x),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.unique(),
    ],
    ids=["item", "truth", "tolist", "cpu", "equal", "nonzero", "index by truth", "unique"],
)
def test_what_waits_for_a_device_is_seen(read: Callable[[Tensor], object]) -> None:
    with pytest.raises((AssertionError, NotImplementedError)):
        traffic_of(lambda: read(torch.empty(4, device=META)))


@cases(
    ("copy", "sizes"),
    [
        (lambda x: torch.ones(3).to(META), [3]),
        (lambda x: torch.tensor([1.0, 2.0], device=META), [2]),
        (lambda x: torch.as_tensor(2.0, device=META), [1]),
        (lambda x: x.new_tensor([1.0]), [1]),
        (lambda x: x.copy_(torch.ones(4)), [4]),
        (lambda x: x[torch.tensor([1, 2])], [2]),
        (lambda x: x[[1, 2, 3]], [3]),
        (lambda x: x.mul_(torch.tensor(2.0)).mul_(2), []),
        (lambda x: torch.full((), 2.0, device=META) + torch.arange(3, device=META), []),
        (lambda x: x.to(torch.float64).clone(), []),
    ],
    ids=["to", "tensor", "as_tensor", "new_tensor", "copy_", "index", "list", "scalars", "made there", "within"],
)
def test_what_is_copied_to_a_device_is_seen(copy: Callable[[Tensor], object], sizes: list[int]) -> None:
    assert traffic_of(lambda: copy(torch.empty(4, device=META))).copies == sizes


# ---------------------------------------------------------------- masks
@cases("rescale", [False, True], ids=["plain", "rescaled"])
@cases("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_entries_are_masked_with_one_copy(dtype, rescale):
    tensors = gradients(dtype)
    traffic = traffic_of(lambda: mask_entries_(tensors, range(COUNT), RATES, rescale=rescale))
    assert traffic.copies == [4 * 5]  # four tensors are small, each five words
    assert traffic.launched


def test_large_tensors_alone_need_no_copy():
    assert traffic_of(lambda: mask_entries_([torch.empty(9000, 8, device=META)], [1], [0.5])).copies == []


def test_the_compiled_kernel_shares_the_copy(monkeypatch):
    # nothing is compiled while operations are watched: they run one by one, and the check, which reads, is left out
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(_fused, "_checked_kernel", lambda device, dtype: _fused._mask_)
    traffic = traffic_of(lambda: mask_entries_(gradients(), range(COUNT), RATES, fused=True))
    assert traffic.copies == [4 * 5 + 5]
    assert "where" in traffic.launched  # the kernel's


@cases("rescale", [False, True], ids=["plain", "rescaled"])
def test_rows_are_masked_with_one_copy(rescale):
    traffic = traffic_of(lambda: mask_rows_(gradients(), range(COUNT), RATES, rescale=rescale))
    assert traffic.copies == [5 * 5]  # of five tensors with few rows
    assert traffic.launched


@cases("rate", [0.0, 0.5, 1.0])
def test_masks_are_made_and_counted_without_a_copy(rate):
    assert traffic_of(lambda: keep_mask((3, 4), 1, rate, device=META)).copies == []
    assert traffic_of(lambda: count_kept(10_000, 1, rate, META)).copies == []


def test_blocks_of_words_go_to_each_device_in_one_copy():
    devices = META, torch.device("cpu"), META
    blocks = list(zip(devices, map(torch.tensor, ([[1, 2], [3, 4]], [[5, 6]], [[7, 8]])), strict=True))
    assert traffic_of(lambda: send_rows(blocks)).copies == [6]
    first, here, last = send_rows(blocks)
    assert [first.shape, last.shape] == [(2, 2), (1, 2)]
    assert here.tolist() == [[5, 6]]
    assert [view.tolist() for view in send_rows([(torch.device("cpu"), rows) for _, rows in blocks])] == [
        [[1, 2], [3, 4]],
        [[5, 6]],
        [[7, 8]],
    ]


# ---------------------------------------------------------------- clips
@cases("scale", [None, torch.empty((), device=META)], ids=["unscaled", "scaled"])
@cases("norm_type", [2.0, inf])
@cases(
    ("sizes", "max_norms", "copies"),
    [([COUNT], [1.0], []), ([1] * COUNT, [1.0] * COUNT, []), ([3, COUNT - 3], [1.0, 2.0], [2])],
    ids=["one", "equal", "unlike"],
)
def test_norms_are_clipped_with_a_copy_of_unlike_thresholds_alone(sizes, max_norms, copies, norm_type, scale):
    traffic = traffic_of(lambda: clip_components_(gradients(), sizes, max_norms, norm_type=norm_type, loss_scale=scale))
    assert traffic.copies == copies
    assert traffic.launched


def test_norms_are_added_over_groups_without_a_copy():
    norms = component_norms(gradients(), [1] * COUNT)
    assert traffic_of(lambda: norms_over(norms, [3, COUNT - 3], [None] * COUNT)).copies == []


@cases("scale", [None, torch.empty((), device=META)], ids=["unscaled", "scaled"])
@cases("dtype", [torch.float32, torch.float16], ids=str)
def test_values_are_clipped_without_a_read_or_a_copy(dtype, scale):
    traffic = traffic_of(lambda: clip_values_(gradients(dtype), 0.5, loss_scale=scale))
    assert traffic.copies == []
    assert traffic.launched.count("clamp_") == COUNT - 1  # of the empty tensor there is nothing to clip
