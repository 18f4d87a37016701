"""Units clipped to a share of the norm of their weights, against the formula in Python numbers and against optax."""

from math import hypot, inf, isnan, nan, prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lightning_sparsegrad.functional import clip_units_
from lightning_sparsegrad.functional import unit_clipping as module
from tests.cases import cases
from tests.nasty import EXAMPLES, FLOATS, LAYOUTS, assert_same_bits, clones, gradients, laid_out
from tests.on_meta import META, traffic_of

SHAPES = ((3, 4), (4, 3), (5,), (), (1, 6), (6, 1), (2, 3, 4), (3, 2, 2, 2))


def drawn(shape: tuple[int, ...], seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (tensor * scale).to(dtype)


def factors_by_hand(
    gradient: Tensor, weight: Tensor, clipping: float, *, dim: int = 0, eps: float = 1e-3, scale: float = 1.0
) -> list[float]:
    """Return the factor of each unit, in Python numbers."""
    whole = sum(size > 1 for size in gradient.shape) <= 1
    count = 1 if whole else gradient.shape[dim]
    pairs = [
        tensor.double().movedim(0 if whole else dim, 0).reshape(count, -1)
        if tensor.ndim
        else tensor.double().view(1, 1)
        for tensor in (gradient, weight)
    ]
    factors = []
    for unit, weights in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True):
        entries, bound = [entry / scale for entry in unit], clipping * max(hypot(*weights), eps)
        norm = nan if any(isnan(entry) for entry in entries) else hypot(*entries)
        factors.append(1.0 if norm < bound else bound / max(norm, 1e-6))
    return factors


def scaled_by_hand(gradient: Tensor, factors: list[float], dim: int) -> Tensor:
    shape = [1] * gradient.ndim
    if len(factors) > 1:
        shape[dim] = len(factors)
    return (gradient.double() * torch.tensor(factors, dtype=torch.float64).view(shape)).to(gradient.dtype)


# ---------------------------------------------------------------- the formula
@cases("dim", [0, 1])
@cases("clipping", [0.01, 0.5, 1.0, 3.0])
@cases("shape", SHAPES, ids=str)
def test_units_are_clipped_as_by_hand(shape, clipping, dim):
    if dim >= max(len(shape), 1):
        return
    gradient, weight = drawn(shape, 1), drawn(shape, 2)
    factors = factors_by_hand(gradient, weight, clipping, dim=dim)
    expected = scaled_by_hand(gradient, factors, dim)
    done = clip_units_([gradient], [weight], clipping, dims=[dim])
    assert_close(gradient, expected, rtol=1e-6, atol=0)
    assert_close(done[0], torch.tensor(factors), rtol=1e-6, atol=0)


@EXAMPLES
@given(
    data=st.data(),
    gradient=gradients(),
    clipping=st.sampled_from([1e-8, 0.01, 1.0, 1e4]),
    scale=st.sampled_from([None, 1.0, 1024.0]),
)
def test_nasty_gradients_are_clipped_as_by_hand(data, gradient, clipping, scale):
    weight = drawn(tuple(gradient.shape), 3, data.draw(st.sampled_from([0.0, 1e-2, 1.0])), gradient.dtype)
    dim = data.draw(st.sampled_from([0, 1])) if gradient.ndim > 1 else 0
    (before,) = clones([gradient])
    loss_scale = None if scale is None else torch.tensor(scale)
    done = clip_units_([gradient], [weight], clipping, dims=[dim], loss_scale=loss_scale)
    if not prod(gradient.shape):
        assert done[0].tolist() == [1.0] * len(done[0])
        return
    factors = factors_by_hand(before, weight, clipping, dim=dim, scale=scale or 1.0)
    # squares of less than 1e-38 are lost in float32, as in `clip_components_`; and at the bound, either is right
    for actual, factor in zip(done[0].tolist(), factors, strict=True):
        assert actual == pytest.approx(factor, rel=1e-5, nan_ok=True) or (actual == 1 and factor > 1 - 1e-5)
    expected = scaled_by_hand(before, done[0].tolist(), dim)
    narrow = torch.finfo(gradient.dtype)
    assert_close(
        gradient, expected, rtol=max(2 * narrow.eps, 1e-6), atol=2 * narrow.smallest_normal * narrow.eps, equal_nan=True
    )
    inside = (done[0] == 1).view([-1 if d == dim and len(factors) > 1 else 1 for d in range(gradient.ndim)])
    assert_same_bits([gradient.where(inside, 0)], [before.where(inside, 0)])


@cases("few", [False, True], ids=["most rows", "few rows"])
@cases("layout", LAYOUTS)
@cases("dtype", FLOATS, ids=str)
def test_rows_within_their_bounds_keep_their_bits(dtype, layout, few):
    over = torch.arange(40) % (8 if few else 2) == 0
    gradient = laid_out(drawn((40, 6), 1, dtype=dtype) * torch.where(over, 1.0, 1e-3).view(-1, 1).to(dtype), layout)
    (before,) = clones([gradient])
    weight = torch.ones(40, 6, dtype=dtype)
    done = clip_units_([gradient], [weight], 0.05, dims=[0])
    assert torch.equal(done[0] < 1, over)
    assert_same_bits([gradient[~over]], [before[~over]])
    norms = torch.linalg.vector_norm(gradient[over], dim=1, dtype=torch.float64)
    assert_close(norms, torch.full_like(norms, 0.05 * 6**0.5), rtol=float(torch.finfo(dtype).eps) * 2 + 1e-6, atol=0)


def test_a_norm_at_its_bound_is_scaled_by_one():
    gradient, weight = torch.tensor([[3.0, 4.0]] * 2), torch.tensor([[5.0, 0.0], [10.0, 0.0]])
    done = clip_units_([gradient], [weight], 1.0, dims=[0])
    assert gradient.tolist() == [[3.0, 4.0]] * 2
    assert done[0].tolist() == [1.0, 1.0]


def test_units_whose_weights_are_zero_move():
    gradient = torch.full((2, 4), 2.0)
    clip_units_([gradient], [torch.zeros(2, 4)], 0.01, dims=[0])
    assert_close(gradient, torch.full((2, 4), 0.01 * 1e-3 / 2))
    gradient = torch.full((2, 4), 2.0)
    clip_units_([gradient], [torch.zeros(2, 4)], 0.01, dims=[0], eps=100.0)
    assert_close(gradient, torch.full((2, 4), 0.5))


def test_a_bound_below_the_smallest_norm_divides_by_that():
    gradient = torch.tensor([[3e-7, 4e-7], [1e-8, 0.0]])
    clip_units_([gradient], [torch.zeros(2, 2)], 1e-4, dims=[0])
    assert_close(gradient, torch.tensor([[3e-8, 4e-8], [1e-8, 0.0]]))


@cases("rows", [1, 9], ids=["one row", "nine rows"])
@cases("value", [inf, -inf, nan])
def test_what_is_not_finite_ends_undefined_and_leaves_other_units_alone(value, rows):
    gradient = torch.full((rows + 1, 3), 1e-3)
    gradient[-1, 1] = value
    done = clip_units_([gradient], [torch.ones(rows + 1, 3)], 0.01, dims=[0])
    rest = gradient[-1, [0, 2]]
    assert gradient[-1, 1].isnan()
    assert rest.isnan().all() if isnan(value) else not rest.any()
    assert gradient[:-1].tolist() == torch.full((rows, 3), 1e-3).tolist()
    assert (~(done[0] >= 1)).tolist() == [False] * rows + [True]


@cases("dim", [0, 1])
def test_finite_entries_stay_finite_though_their_squares_are_not(dim):
    gradient = torch.full((2, 3), 1e30)
    clip_units_([gradient], [torch.ones(2, 3)], 0.01, dims=[dim])
    assert not gradient.any()


def test_units_of_undefined_weights_end_undefined():
    gradient = torch.ones(2, 3)
    clip_units_([gradient], [torch.tensor([[nan, 1, 1], [inf, 1, 1]])], 0.01, dims=[0])
    assert gradient[0].isnan().all()
    assert gradient[1].tolist() == [1.0] * 3


@cases("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_norms_of_narrow_units_are_accumulated_in_float32(dtype):
    gradient = torch.full((2, 1000), 300.0, dtype=dtype)  # in fp16 the squares overflow
    weight = torch.full((2, 1000), 1e-4, dtype=dtype)  # in fp16 the squares underflow
    for dim in (0, 1):
        actual, of = (tensor.clone() if dim == 0 else tensor.T.contiguous() for tensor in (gradient, weight))
        clip_units_([actual], [of], 0.5, dims=[dim])
        assert_close(actual, torch.full_like(actual, 0.5e-4), rtol=1e-2, atol=1e-6)


def test_bounds_are_in_true_units_under_a_loss_scale():
    scaled, true = drawn((4, 5), 1) * 1024, drawn((4, 5), 1)
    weight = drawn((4, 5), 2)
    clip_units_([true], [weight], 0.8, dims=[0])
    clip_units_([scaled], [weight], 0.8, dims=[0], loss_scale=torch.tensor(1024.0))
    assert not torch.equal(true, drawn((4, 5), 1))
    assert_close(scaled / 1024, true)


@cases("rows", [3, 700])
def test_columns_are_the_units_of_transposed_weights(rows, monkeypatch):
    monkeypatch.setattr(module, "block_size", lambda _: 64)  # several blocks of rows
    gradient, weight = drawn((rows, 5), 1) * torch.linspace(0.3, 1.7, 5), drawn((rows, 5), 2)
    transposed = gradient.T.contiguous()
    by_column = clip_units_([gradient], [weight], 0.9, dims=[1])
    by_row = clip_units_([transposed], [weight.T.contiguous()], 0.9, dims=[0])
    assert 0 < int((by_column[0] < 1).sum()) < 5
    assert_close(gradient, transposed.T, rtol=1e-5, atol=0)
    assert_close(by_column[0], by_row[0], rtol=1e-5, atol=0)


def test_tensors_of_all_dtypes_are_clipped_together_as_one_by_one():
    tensors = [drawn(shape, seed, dtype=FLOATS[seed % 4]) for seed, shape in enumerate(SHAPES)]
    weights = [drawn(tuple(tensor.shape), 9, dtype=tensor.dtype) for tensor in tensors]
    together, alone = clones(tensors), clones(tensors)
    done = clip_units_(together, weights, 0.9, dims=[0] * len(tensors))
    assert [len(factors) for factors in done] == [3, 4, 1, 1, 1, 1, 2, 3]
    assert sum(int((factors < 1).sum()) for factors in done) > 4
    for tensor, weight in zip(alone, weights, strict=True):
        clip_units_([tensor], [weight], 0.9, dims=[0])
    assert_same_bits(together, alone)


# ---------------------------------------------------------------- an accelerator, and optax
def test_an_accelerator_is_not_waited_for():
    tensors = [torch.empty(shape, dtype=dtype, device=META) for shape in SHAPES for dtype in FLOATS]
    weights = [torch.empty_like(tensor) for tensor in tensors]
    dims = [min(1, max(tensor.ndim - 1, 0)) for tensor in tensors]
    traffic = traffic_of(lambda: clip_units_(tensors, weights, 0.01, dims=dims, loss_scale=torch.ones((), device=META)))
    assert traffic.copies == []
    assert traffic.launched.count("_foreach_mul_") == 1


@cases("clipping", [0.01, 0.5, 100.0], ids=["all", "some", "none"])
def test_hundreds_of_tensors_are_clipped_as_each_alone(clipping):
    shapes, dtypes = [*SHAPES, (0, 3), (40, 4), (70, 70)], [torch.float32, torch.bfloat16]
    tensors = [drawn(shapes[i % 11], i, dtype=dtypes[i % 3 // 2]) for i in range(300)]
    weights = [drawn(tensor.shape, 1_000 + i, dtype=tensor.dtype) for i, tensor in enumerate(tensors)]
    dims = [min(i % 2, max(tensor.ndim - 1, 0)) for i, tensor in enumerate(tensors)]
    alone = clones(tensors)
    expected = [
        clip_units_([tensor], [weight], clipping, dims=[dim])[0]
        for tensor, weight, dim in zip(alone, weights, dims, strict=True)
    ]
    factors = clip_units_(tensors, weights, clipping, dims=dims)
    assert_same_bits(factors, expected)
    assert_same_bits(tensors, alone)


def in_the_order_of_optax(tensor: Tensor) -> Tensor:
    """Return a tensor with its output dimension last, as JAX has it."""
    return tensor.movedim(0, -1) if tensor.ndim > 1 else tensor


OF_OPTAX = [
    [0.90000004, 1.2, 0.0],
    [0.25, 0.5, -0.125],
    [0.05773503, -0.05773503, 0.05773503],
    [0.0, 0.0, 0.0],
]  # adaptive_grad_clip(0.5, eps=0.2) of optax 0.2.8 on the transposed matrices


def test_the_numbers_of_optax():
    gradient = torch.tensor([[3.0, 4.0, 0.0], [0.25, 0.5, -0.125], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
    weight = torch.tensor([[1.0, 2.0, -2.0], [4.0, 0.0, 3.0], [0.0, 0.0, 0.125], [1.0, 1.0, 1.0]])
    clip_units_([gradient], [weight], 0.5, dims=[0], eps=0.2)
    assert_close(gradient, torch.tensor(OF_OPTAX), rtol=1e-6, atol=0)


@pytest.mark.long  # to import JAX takes longer than everything else here
@cases("clipping", [0.01, 0.9])
@cases("shape", SHAPES, ids=str)
def test_units_are_clipped_as_by_optax(shape, clipping):
    optax = pytest.importorskip("optax")
    gradient, weight = drawn(shape, 4), drawn(shape, 5)
    axis = (0, 1) if len(shape) == 3 else None  # by default, optax takes three dimensions for attention heads
    clip = optax.adaptive_grad_clip(clipping, eps=1e-3, axis=axis)
    theirs, ours = in_the_order_of_optax(weight).numpy(), in_the_order_of_optax(gradient).numpy()
    expected, _ = clip.update([ours], clip.init([theirs]), [theirs])
    clip_units_([gradient], [weight], clipping, dims=[0])
    actual = in_the_order_of_optax(gradient)
    assert_close(actual, torch.tensor(expected[0].tolist()).view(actual.shape), rtol=1e-6, atol=0)
