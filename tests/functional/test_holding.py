"""Tensors of which only some entries or rows train, entry by entry."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparsegrad.functional import keep_entries_, keep_rows_, restore_entries_, restore_rows_
from tests.nasty import EXAMPLES, assert_equal, assert_same_bits, gradients


def drawn_mask(tensor: Tensor, data: st.DataObject) -> Tensor:
    share, seed = data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])), data.draw(st.integers(0, 99))
    return torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) < share


def drawn_rows(tensor: Tensor, data: st.DataObject) -> Tensor:
    rows = data.draw(st.permutations(range(tensor.shape[0])))
    return torch.tensor(rows[: data.draw(st.integers(0, len(rows)))], dtype=torch.int64)


def by_row(tensor: Tensor, rows: Tensor) -> Tensor:
    """Return the mask of the entries of some rows."""
    mask = torch.zeros(tensor.shape, dtype=torch.bool)
    for row in rows.tolist():
        mask[row] = True
    return mask


def zeroed(tensor: Tensor, mask: Tensor) -> Tensor:
    """Multiply entries one by one."""
    entries = [value if kept else value * 0 for value, kept in zip(tensor.flatten(), mask.flatten(), strict=True)]
    return torch.stack(entries).view(tensor.shape) if entries else tensor.clone()


@EXAMPLES
@given(gradient=gradients(), data=st.data())
def test_entries_outside_the_mask_become_zero_and_overflows_stay_visible(gradient: Tensor, data: st.DataObject) -> None:
    mask = drawn_mask(gradient, data)
    expected = zeroed(gradient, mask)
    keep_entries_(gradient, mask)
    assert_same_bits([gradient[mask]], [expected[mask]])
    assert_equal([gradient], [expected])


@EXAMPLES
@given(gradient=gradients().filter(lambda tensor: tensor.ndim > 0), data=st.data())
def test_other_rows_become_zero_and_overflows_stay_visible(gradient: Tensor, data: st.DataObject) -> None:
    rows = drawn_rows(gradient, data)
    expected = zeroed(gradient, by_row(gradient, rows))
    keep_rows_(gradient, rows)
    assert_same_bits([gradient[rows]], [expected[rows]])
    assert_equal([gradient], [expected])


@EXAMPLES
@given(weight=gradients(), data=st.data())
def test_entries_outside_the_mask_are_restored_whatever_became_of_them(weight: Tensor, data: st.DataObject) -> None:
    mask, before = drawn_mask(weight, data), weight.clone()
    weight.mul_(float("nan")).add_(1)
    expected = torch.where(mask, weight, before)
    restore_entries_(weight, before, mask)
    assert_same_bits([weight], [expected])


@EXAMPLES
@given(weight=gradients().filter(lambda tensor: tensor.ndim > 0), data=st.data())
def test_other_rows_are_restored_whatever_became_of_them(weight: Tensor, data: st.DataObject) -> None:
    rows, before = drawn_rows(weight, data), weight.clone()
    weight.sub_(3).mul_(-0.5)
    expected = torch.where(by_row(weight, rows), weight, before)
    restore_rows_(weight, before, rows)
    assert_same_bits([weight], [expected])
