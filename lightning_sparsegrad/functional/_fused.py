"""A mask as one compiled kernel: hash, compare and multiply in a single pass over a gradient, with nothing stored.

`torch.compile` compiles it at the first use, once for all shapes, keys and rates (and again for another dtype, device
or mode of torch, such as autocast), and keeps it in its cache on disk. Where no compiler works, one warning says so and
the eager path does the work. The bits are the same, which is checked on a sample before the kernel is used.
"""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from lightning_sparsegrad.functional._words import send
from lightning_sparsegrad.functional.hashing import (
    MULTIPLIERS,
    SHIFTS,
    WORD,
    entry_words,
    hash_entries,
    signed,
)

_WIDTH = 1 << 10  # entries in a row of the kernel
_LANES = 32  # the widest vector of a CPU, in bfloat16
_Kernel = Callable[[Tensor, Tensor, Tensor], None]


class _NotCompiledError(RuntimeError):
    """The compiler gave up, and the kernel ran as Python code."""


def fused_words(tensor: Tensor, start: int, key: int, threshold: int) -> list[int] | None:
    """Return the words with which the kernel masks a tensor; `None` if it cannot be used.

    Args:
        tensor: Gradient of any floating dtype, or a slice of one.
        start: Index of its first entry.
        key: 64-bit key, see `derive_key`.
        threshold: The smallest hash that is kept, in [0, 2^32], see `keep_threshold`.
    """
    head, count = _rows_within(tensor, start)
    if count <= 0 or threshold == WORD or not tensor.is_contiguous():
        return None
    if _checked_kernel(tensor.device, tensor.dtype) is None:
        return None
    return entry_words(key, start + head, threshold)


def fused_mask_(tensor: Tensor, start: int, words: Tensor, factor: float) -> list[tuple[int, Tensor]] | None:
    """Mask the entries of a tensor in place, except those that the kernel cannot reach.

    Args:
        tensor: Gradient of any floating dtype, or a slice of one.
        start: Index of its first entry.
        words: What `fused_words` returned, as an int32 tensor of shape (4,) on the device of the tensor.
        factor: The factor of the kept entries.

    Returns:
        The remaining slices, each as the index of its first entry and a flat view: less than a row of the kernel at
        either end, and entries beyond 2^32. `None` if the kernel could not be used after all.
    """
    kernel = _checked_kernel(tensor.device, tensor.dtype)
    if kernel is None:
        return None
    head, count = _rows_within(tensor, start)
    flat = tensor.view(-1)
    try:
        kernel(flat[head : head + count].view(-1, _WIDTH), *_arguments(tensor, words, factor))
    except _NotCompiledError as error:  # nothing was changed yet
        _warn(error)
        return None
    return [(start, flat[:head]), (start + head + count, flat[head + count :])]


def _rows_within(tensor: Tensor, start: int) -> tuple[int, int]:
    """Return how many entries come before the first whole row of the kernel, and how many are in whole rows."""
    head = min(-start % _WIDTH, tensor.numel())
    return head, (min(start + tensor.numel(), WORD) - start - head) // _WIDTH * _WIDTH


def _arguments(tensor: Tensor, words: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(tensor.dtype, torch.float32)  # a factor is not rounded to half precision
    scale = torch.full((), factor, dtype=dtype, device=tensor.device)
    return words, scale


def _mask_(rows: Tensor, words: Tensor, factor: Tensor) -> None:
    """Mask a matrix with the hash of `hashing`; terms that are equal along a vector are computed once.

    The form is one that inductor makes vectors of on every CPU. The index along the last dimension is constant: read
    from a table of int32 it would pass through the stack on AVX2, which takes eight times as long as the rest. Floats
    are chosen before the product, since a comparison of int32 does not select doubles in vectors.
    """
    if not torch.compiler.is_compiling():
        raise _NotCompiledError("torch.compile left the kernel uncompiled")
    first, second, threshold = words[0], words[1], words[3]
    height, vectors, lanes = (
        torch.arange(count, dtype=torch.int32, device=rows.device)
        for count in (rows.shape[0], _WIDTH // _LANES, _LANES)
    )
    start = (words[2] + height * _WIDTH ^ first).view(-1, 1, 1) ^ vectors.view(-1, 1) * _LANES
    x = lanes ^ _xor_shift(start, 0)  # a lane is shifted to zero
    x = x * signed(MULTIPLIERS[0]) ^ second
    x = _xor_shift(x, 1) * signed(MULTIPLIERS[1])
    x = _xor_shift(x, 2) * signed(MULTIPLIERS[2])
    kept = torch.where((x ^ -(1 << 31)) >= threshold, 1.0, 0.0).to(factor.dtype)  # float32 would stay, and round
    rows.view(-1, _WIDTH // _LANES, _LANES).mul_(kept * factor)


def _xor_shift(x: Tensor, stage: int) -> Tensor:
    return x ^ ((x >> SHIFTS[stage]) & ((1 << (32 - SHIFTS[stage])) - 1))


@cache
def _checked_kernel(device: torch.device, dtype: torch.dtype) -> _Kernel | None:
    """Compile the kernel and compare it with the eager path on a sample; return `None`, with a warning, on failure."""
    kernel: _Kernel = torch.compile(_mask_, dynamic=True)
    key, threshold, factor = 0x0123456789ABCDEF, WORD // 3, 1 / 0.7  # a factor that every dtype rounds
    sample = torch.linspace(-1, 1, 8 * _WIDTH, dtype=torch.float64, device=device).to(dtype)
    keep = hash_entries(key, 0, sample.numel(), device) >= threshold - WORD // 2
    expected = (sample * keep).mul_(factor)
    try:
        words = send(entry_words(key, 0, threshold), torch.int32, device)
        kernel(sample.view(-1, _WIDTH), *_arguments(sample, words, factor))
    except Exception as error:  # any error of a missing or broken compiler; the eager path needs none
        _warn(error)
        return None
    if not torch.equal(sample, expected):
        _warn(RuntimeError("its masks differ from those of the eager path"))
        return None
    return kernel


def _warn(error: Exception) -> None:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    warnings.warn(
        f"Masks are computed without their compiled kernel, with the same result but slower: {reason}", stacklevel=2
    )
