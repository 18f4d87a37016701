"""Hypothesis strategies for gradients as unpleasant as they get, and what tests compare them with."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn
from torch.testing import assert_close

EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True, database=None)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = ((), (0,), (1,), (7,), (3, 4), (0, 3), (2, 0), (5, 1), (2, 3, 4), (2, 3, 2, 2))
LAYOUTS = ("contiguous", "transposed", "strided", "offset")
FINITE = (0.0, -0.0, 1.0, -2.5, 1e-30, -1e-8, 3e-5, 60000.0, -1e15)
NON_FINITE = (float("inf"), float("-inf"), float("nan"))

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return the same entries in other memory: a view whose strides or offset are not those of a fresh tensor."""
    if layout == "transposed":
        order = list(reversed(range(tensor.ndim)))
        return tensor.permute(order).contiguous().permute(order)
    if layout == "strided":
        wide = tensor.new_zeros((*tensor.shape, 2))
        wide[..., 1] = tensor
        return wide[..., 1]
    if layout == "offset":
        return torch.cat([tensor.new_zeros(3), tensor.reshape(-1)])[3:].view(tensor.shape)
    return tensor.contiguous()


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


@st.composite
def gradients(
    draw: st.DrawFn,
    *,
    dtypes: SearchStrategy[torch.dtype] | None = None,
    finite: bool = False,
    largest: float = float("inf"),
) -> Tensor:
    """One gradient: any dtype, shape and layout; normal entries of any scale, some of them replaced by nasty ones.

    Args:
        draw: Hypothesis' own.
        dtypes: Where to draw the dtype from; any floating dtype by default.
        finite: Whether all entries are finite.
        largest: Bound on the entries that are finite.
    """
    dtype = draw(dtypes if dtypes is not None else st.sampled_from(FLOATS))
    shape = draw(st.sampled_from(SHAPES))
    scale = draw(st.sampled_from((0.0, 1e-8, 1e-3, 1.0, 1e3)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    tensor = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    pool = [value for value in FINITE if abs(value) <= largest] + ([] if finite else list(NON_FINITE))
    spikes = st.lists(st.tuples(st.integers(0, 2**16), st.sampled_from(pool)), max_size=3)
    for position, value in draw(spikes) if tensor.numel() else ():
        tensor.view(-1)[position % tensor.numel()] = value
    if finite:
        tensor = tensor.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    return laid_out(tensor.to(dtype), draw(st.sampled_from(LAYOUTS)))


def gradient_lists(
    *,
    same_dtype: bool = False,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
    finite: bool = False,
    largest: float = float("inf"),
) -> SearchStrategy[list[Tensor]]:
    """Several gradients, of one dtype or of mixed ones."""

    def lists(dtype: SearchStrategy[torch.dtype]) -> SearchStrategy[list[Tensor]]:
        return st.lists(gradients(dtypes=dtype, finite=finite, largest=largest), min_size=1, max_size=4)

    if same_dtype:
        return st.sampled_from(dtypes).flatmap(lambda dtype: lists(st.just(dtype)))
    return lists(st.sampled_from(dtypes))


def split_sizes(draw: st.DrawFn, count: int) -> list[int]:
    """Cut `count` tensors into consecutive components."""
    sizes: list[int] = []
    while sum(sizes) < count:
        sizes.append(draw(st.integers(1, count - sum(sizes))))
    return sizes


def clones(tensors: list[Tensor]) -> list[Tensor]:
    """Copy tensors, memory layout included, so that changing the copies in place is the same work."""
    copies = []
    for tensor in tensors:
        copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        copies.append(copy.copy_(tensor))
    return copies


def as_parameters(tensors: list[Tensor]) -> list[nn.Parameter]:
    """Return parameters with copies of the tensors as their gradients."""
    parameters = []
    for gradient in clones(tensors):
        parameter = nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient
        parameters.append(parameter)
    return parameters


def bits(tensor: Tensor) -> Tensor:
    """Return the entries as integers, so that zeros of both signs and undefined entries compare."""
    return tensor.contiguous().view(_WORDS[tensor.itemsize])


def assert_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert [tensor.dtype for tensor in actual] == [tensor.dtype for tensor in expected]
    assert_close([bits(t) for t in actual], [bits(t) for t in expected], rtol=0, atol=0)


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Assert that all entries are equal; an undefined entry equals another."""
    assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
