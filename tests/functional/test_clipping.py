from math import inf, isfinite, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.testing import assert_close

from lightning_sparsegrad.functional import _blocks as blocks
from lightning_sparsegrad.functional import clip_components_, clip_values_, component_norms
from tests.cases import cases
from tests.nasty import (
    EXAMPLES,
    FLOATS,
    LAYOUTS,
    as_parameters,
    assert_equal,
    assert_same_bits,
    clones,
    gradient_lists,
    gradients,
    laid_out,
    split_sizes,
)

WIDE = (torch.float32, torch.float64)
EPSILON = 1e-6
norm_types = st.sampled_from([2.0, inf])
thresholds = st.sampled_from([1e-8, 0.01, 0.5, 1.0, 100.0, 1e12])


def authors_loop(tensors: list[Tensor], max_norm: float) -> None:
    """Clip each weight and each bias as the code of CGNC's authors does."""
    for gradient in tensors:
        norm = gradient.norm()
        if norm > max_norm:
            gradient *= max_norm / (norm + EPSILON)


def norm_by_hand(tensors: list[Tensor], norm_type: float) -> float:
    values = [abs(value) for tensor in tensors for value in tensor.double().flatten().tolist()]
    if any(value != value for value in values):
        return nan
    if norm_type == inf:
        return max(values, default=0.0)
    return float(torch.tensor(values, dtype=torch.float64).square().sum().sqrt())


def factor_by_hand(norm: float, max_norm: float) -> float:
    return nan if norm != norm else min(1.0, max_norm / (norm + EPSILON))


def has_empty(tensors: list[Tensor]) -> bool:
    return any(not tensor.numel() for tensor in tensors)


# ---------------------------------------------------------------- one component over everything is torch's own
@EXAMPLES
@given(tensors=gradient_lists(dtypes=WIDE, same_dtype=True), max_norm=thresholds, norm_type=norm_types)
def test_one_component_is_clipped_as_by_torch(tensors, max_norm, norm_type):
    if norm_type == inf and has_empty(tensors):
        return  # an error in torch
    parameters = as_parameters(tensors)
    total = clip_grad_norm_(parameters, max_norm, norm_type=norm_type)
    norms, factors = clip_components_(tensors, [len(tensors)], [max_norm], norm_type=norm_type, norm="torch")
    assert_equal(tensors, [parameter.grad for parameter in parameters if parameter.grad is not None])
    assert_equal([norms], [total.reshape(1)])
    assert factors.shape == (1,)


@cases("value", [inf, -inf, nan])
@cases("norm_type", [2.0, inf])
@cases("count", [1, 3], ids=["one tensor", "three tensors"])
def test_a_component_that_is_not_finite_ends_as_with_torch(value, norm_type, count):
    tensors = [torch.tensor([1.0, value, -2.0]), torch.ones(2, 2), torch.tensor(3.0)][:count]
    parameters = as_parameters(tensors)
    clip_grad_norm_(parameters, 1.0, norm_type=norm_type)
    norms, _ = clip_components_(tensors, [count], [1.0], norm_type=norm_type)
    assert_equal(tensors, [parameter.grad for parameter in parameters if parameter.grad is not None])
    assert tensors[0][1].isnan()
    assert not norms.isfinite().any()


def test_a_component_that_is_not_finite_leaves_the_others_alone():
    tensors = [torch.tensor([1.0, inf]), torch.tensor([0.3, -0.2]), torch.tensor([3.0, 4.0])]
    norms, factors = clip_components_(tensors, [1, 1, 1], [1.0, 1.0, 1.0])
    assert_close(
        tensors, [torch.tensor([0.0, nan]), torch.tensor([0.3, -0.2]), torch.tensor([0.6, 0.8])], equal_nan=True
    )
    assert_close(norms, torch.tensor([inf, 0.13**0.5, 5.0]))
    assert_close(factors, torch.tensor([0.0, 1.0, 0.2]))


# ---------------------------------------------------------------- one component per tensor is the authors' loop
@EXAMPLES
@given(tensors=gradient_lists(dtypes=WIDE), max_norm=thresholds)
def test_a_component_per_tensor_is_clipped_as_by_the_authors(tensors, max_norm):
    parameters, by_hand = as_parameters(tensors), clones(tensors)
    for parameter in parameters:
        clip_grad_norm_([parameter], max_norm)
    authors_loop([tensor for tensor in by_hand if tensor.isfinite().all()], max_norm)
    finite = [bool(tensor.isfinite().all()) for tensor in tensors]
    clip_components_(tensors, [1] * len(tensors), [max_norm] * len(tensors))
    assert_close(tensors, [p.grad for p in parameters if p.grad is not None], rtol=1e-6, atol=0, equal_nan=True)
    for tensor, expected, is_finite in zip(tensors, by_hand, finite, strict=True):
        if is_finite:
            # the loop compares the norm itself, torch and we the norm plus 1e-6: within 1e-6 of it they may differ
            assert_close(tensor, expected, rtol=1e-6 + 2 * EPSILON / max_norm, atol=0)


def test_the_authors_loop_on_ordinary_gradients():
    tensors = [torch.randn(7, 5, generator=torch.Generator().manual_seed(seed)) * 10.0**seed for seed in range(-4, 3)]
    expected = clones(tensors)
    authors_loop(expected, 0.05)
    _, factors = clip_components_(tensors, [1] * 7, [0.05] * 7)
    assert_close(tensors, expected, rtol=1e-6, atol=0)
    assert [factor == 1 for factor in factors.tolist()] == [True, True, False, False, False, False, False]


# ---------------------------------------------------------------- any components, dtypes and layouts
@EXAMPLES
@given(data=st.data(), tensors=gradient_lists(), norm_type=norm_types)
def test_components_are_clipped_as_by_hand(data, tensors, norm_type):
    sizes = split_sizes(data.draw, len(tensors))
    max_norms = data.draw(st.lists(thresholds, min_size=len(sizes), max_size=len(sizes)))
    before, start = clones(tensors), 0
    norms, factors = clip_components_(tensors, sizes, max_norms, norm_type=norm_type)
    assert (
        norms.dtype
        == factors.dtype
        == (torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32)
    )
    for component, (size, max_norm) in enumerate(zip(sizes, max_norms, strict=True)):
        part, start = slice(start, start + size), start + size
        norm = norm_by_hand(before[part], norm_type)
        factor = factor_by_hand(norm, max_norm)
        assert norms[component].item() == pytest.approx(norm, rel=1e-5, abs=1e-18, nan_ok=True)
        assert factors[component].item() == pytest.approx(factor, rel=1e-5, nan_ok=True)
        for tensor, old in zip(tensors[part], before[part], strict=True):
            expected = (old.double() * factor).to(old.dtype)
            assert_close(tensor, expected, atol=_smallest(old.dtype), rtol=_relative(old.dtype), equal_nan=True)
            if factor == 1:
                assert_same_bits([tensor], [old])


def _smallest(dtype: torch.dtype) -> float:
    return 2 * torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def _relative(dtype: torch.dtype) -> float:
    return max(2 * torch.finfo(dtype).eps, 1e-5)


@EXAMPLES
@given(data=st.data(), tensors=gradient_lists(finite=True), norm_type=norm_types)
def test_norms_end_within_their_thresholds(data, tensors, norm_type):
    sizes = split_sizes(data.draw, len(tensors))
    max_norm = data.draw(thresholds)
    clip_components_(tensors, sizes, [max_norm] * len(sizes), norm_type=norm_type)
    for norm in component_norms(tensors, sizes, norm_type=norm_type).tolist():
        rounding = 0.01 * max_norm + 1e-6  # of narrow dtypes: 2^-9 of an entry, or the smallest number of fp16
        assert norm <= max_norm + rounding


@EXAMPLES
@given(data=st.data(), tensors=gradient_lists())
def test_an_infinite_threshold_changes_no_bit_of_a_finite_component(data, tensors):
    sizes = split_sizes(data.draw, len(tensors))
    before, start = clones(tensors), 0
    clip_components_(tensors, sizes, [inf] * len(sizes))
    for size in sizes:
        part, start = slice(start, start + size), start + size
        if all(tensor.isfinite().all() for tensor in before[part]):
            assert_same_bits(tensors[part], before[part])


def test_one_infinite_threshold_among_finite_ones():
    tensors = [torch.full((4,), 10.0), torch.full((4,), 10.0)]
    clip_components_(tensors, [1, 1], [inf, 1.0])
    assert_close(tensors, [torch.full((4,), 10.0), torch.full((4,), 0.5)])


@cases("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_norms_of_narrow_gradients_are_accumulated_in_float32(dtype):
    large = torch.full((100, 100), 300.0, dtype=dtype)  # in fp16 the squares, the sum and its bound all overflow
    small = torch.full((1000,), 1e-4, dtype=dtype)  # in fp16 the squares underflow
    norms = component_norms([large, small], [1, 1])
    assert norms.dtype == torch.float32
    assert_close(norms, torch.stack([large.double().norm(), small.double().norm()]).float(), rtol=1e-5, atol=0)
    clip_components_([large, small], [1, 1], [1.0, 0.001])
    assert_close(large, torch.full_like(large, 0.01))
    assert_close(small.double().norm().item(), 0.001, rtol=0.01, atol=0)


def test_one_wide_gradient_makes_all_norms_wide():
    norms = component_norms([torch.ones(3, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float64)], [1, 1])
    assert norms.dtype == torch.float64
    assert_close(norms, torch.tensor([3.0, 2.0], dtype=torch.float64).sqrt())


@cases(
    ("tensor", "expected"),
    [
        (torch.zeros(3, 2), 0.0),
        (torch.zeros(0, 2), 0.0),
        (torch.tensor(-3.0), 3.0),
        (torch.full((4,), 1e15), 2e15),
        (torch.full((4,), 1e-30), 0.0),  # float32 squares underflow: 1e-6 in the denominator makes it irrelevant
        (torch.full((4,), 1e-30, dtype=torch.float64), 2e-30),
    ],
    ids=["zeros", "empty", "0-d", "1e15", "1e-30", "1e-30 in float64"],
)
def test_norms_of_extreme_gradients(tensor, expected):
    assert_close(component_norms([tensor], [1]).item(), expected, rtol=1e-6, atol=0)


@cases("norm_type", [2.0, inf])
def test_empty_gradients_count_nothing(norm_type):
    tensors = [torch.zeros(0), torch.tensor([3.0, -4.0]), torch.zeros(2, 0)]
    expected = 5.0 if norm_type == 2.0 else 4.0
    assert_close(component_norms(tensors, [2, 1], norm_type=norm_type), torch.tensor([expected, 0.0]))
    assert_close(component_norms(tensors, [1, 1, 1], norm_type=norm_type), torch.tensor([0.0, expected, 0.0]))


@cases("layout", LAYOUTS)
def test_views_are_clipped_where_they_lie(layout):
    whole = laid_out(torch.arange(24.0).reshape(4, 6), layout)
    before = whole.clone()
    rows, columns = whole[:2], whole[2:, ::2]
    clip_components_([rows, columns], [1, 1], [1.0, 2.0])
    assert_close(whole[:2].norm().item(), 1.0, rtol=1e-5, atol=0)
    assert_close(whole[2:, ::2].norm().item(), 2.0, rtol=1e-5, atol=0)
    assert_equal([whole[2:, 1::2]], [before[2:, 1::2]])


# ---------------------------------------------------------------- loss scale
@EXAMPLES
@given(
    data=st.data(),
    tensors=gradient_lists(dtypes=WIDE, finite=True, largest=1e10),
    scale=st.sampled_from([1.0, 1024.0, 65536.0, 3.7]),
    max_norm=thresholds,
    norm_type=norm_types,
)
def test_thresholds_are_in_true_units_under_a_loss_scale(data, tensors, scale, max_norm, norm_type):
    sizes = split_sizes(data.draw, len(tensors))
    scaled = [tensor * scale for tensor in tensors]
    expected, _ = clip_components_(tensors, sizes, [max_norm] * len(sizes), norm_type=norm_type)
    norms, factors = clip_components_(
        scaled, sizes, [max_norm] * len(sizes), norm_type=norm_type, loss_scale=torch.tensor(scale)
    )
    assert_close(norms, expected, rtol=1e-5, atol=1e-18)
    assert_close(scaled, [tensor * scale for tensor in tensors], rtol=1e-5, atol=1e-30)
    assert (factors <= 1).all()


def test_the_epsilon_is_in_true_units_under_a_loss_scale():
    true, scale = torch.tensor([3e-6, 4e-6]), 65536.0
    expected = true * (1e-6 / (5e-6 + EPSILON)) * scale
    scaled = true * scale
    clip_components_([scaled], [1], [1e-6], loss_scale=torch.tensor(scale))
    assert_close(scaled, expected, rtol=1e-5, atol=0)


# ---------------------------------------------------------------- values
@EXAMPLES
@given(tensors=gradient_lists(), max_value=thresholds, scale=st.sampled_from([None, 1.0, 1024.0, 65536.0]))
def test_values_are_clipped_as_by_hand(tensors, max_value, scale):
    before = clones(tensors)
    count = clip_values_(tensors, max_value, loss_scale=None if scale is None else torch.tensor(scale))
    bound, beyond = max_value * (scale or 1.0), 0
    for tensor, old in zip(tensors, before, strict=True):
        narrow = torch.tensor(bound, dtype=torch.promote_types(old.dtype, torch.float32)).to(old.dtype).item()
        for new, value in zip(tensor.flatten().tolist(), old.flatten().tolist(), strict=True):
            if isfinite(value):
                assert new == min(max(value, -narrow), narrow)
            else:
                assert new != new  # undefined, never the bound
            beyond += not abs(value) <= narrow or not isfinite(value)
    assert (count.ndim, count.dtype, count.item()) == (0, torch.int64, beyond)


@cases("dtype", FLOATS, ids=str)
def test_values_are_clipped_on_both_sides(dtype):
    tensor = torch.tensor([-3.0, -0.5, -0.25, 0.0, 0.25, 0.5, 3.0], dtype=dtype)
    count = clip_values_([tensor], 0.5)
    assert tensor.tolist() == [-0.5, -0.5, -0.25, 0.0, 0.25, 0.5, 0.5]
    assert count.item() == 2


@cases("dtype", FLOATS, ids=str)
@cases("max_value", [0.5, 1e6], ids=["small", "beyond fp16"])
def test_an_overflow_ends_undefined_and_counts(dtype, max_value):
    tensor = torch.tensor([inf, -inf, nan, 0.25], dtype=dtype)
    count = clip_values_([tensor], max_value)
    assert tensor.isnan().tolist() == [True, True, True, False]
    assert tensor[3] == 0.25
    assert count.item() == 3


@cases("dtype", FLOATS, ids=str)
def test_an_overflow_without_an_undefined_entry_counts_under_a_bound_that_overflows_too(dtype):
    tensor = torch.tensor([inf, 0.25], dtype=dtype)
    assert clip_values_([tensor], torch.finfo(dtype).max, loss_scale=torch.tensor(inf)).item() == 1
    assert tensor.isnan().tolist() == [True, False]


def test_a_long_row_of_another_layout_is_bounded_piece_by_piece(monkeypatch):
    monkeypatch.setattr(blocks, "_CPU_BLOCK", 8)
    tensor = torch.linspace(-1, 1, 150).view(50, 3).T
    expected, beyond = tensor.clamp(-0.5, 0.5), int((tensor.abs() > 0.5).sum())
    assert clip_values_([tensor], 0.5).item() == beyond
    assert torch.equal(tensor, expected)
    assert [(start, piece.numel()) for start, piece in blocks.pieces(torch.zeros(50, 3).T)][:3] == [
        (0, 8),
        (8, 8),
        (16, 8),
    ]


@cases("max_value", [1e-3, 0.5, 1e3], ids=["all", "some", "none"])
def test_hundreds_of_small_tensors_are_bounded_as_each_alone(max_value):
    shapes, dtypes = [(8,), (3, 5), (), (0, 2), (4_096,), (4_097,)], [torch.float32, torch.bfloat16, torch.float64]
    tensors = [
        torch.randn(shapes[i % 6], generator=torch.Generator().manual_seed(i)).to(dtypes[i % 7 % 3]) for i in range(400)
    ]
    tensors[13][0, 0], tensors[30][3] = nan, inf
    alone = clones(tensors)
    beyond = sum(clip_values_([tensor], max_value).item() for tensor in alone)
    assert clip_values_(tensors, max_value).item() == beyond
    assert_equal(tensors, alone)


def test_a_float64_gradient_is_bounded_in_float64():
    tensor = torch.tensor([0.1 + 1e-12, -5.0], dtype=torch.float64)
    assert clip_values_([tensor], 0.1).item() == 2
    assert tensor.tolist() == [0.1, -0.1]


def test_value_thresholds_are_in_true_units_under_a_loss_scale():
    tensor = torch.tensor([1.0, 2000.0, -5000.0])
    assert clip_values_([tensor], 1.5, loss_scale=torch.tensor(1024.0)).item() == 2
    assert tensor.tolist() == [1.0, 1536.0, -1536.0]


@EXAMPLES
@given(tensor=gradients(finite=True), max_value=thresholds)
def test_clipping_values_twice_is_clipping_once(tensor, max_value):
    clip_values_([tensor], max_value)
    once = tensor.clone()
    assert clip_values_([tensor], max_value).item() == 0
    assert_same_bits([tensor], [once])
