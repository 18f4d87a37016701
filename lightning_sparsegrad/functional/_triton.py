"""Masks and factors for a whole list of tensors in one launch on an accelerator, through kernels of Triton.

Triton is imported at the first list of tensors on such a device, never on a CPU. Before a kernel touches a gradient of
a device and dtype, it is compared with plain torch on a sample; where it fails, one warning says so and the caller does
the work. Each kernel has one binary per dtype, so that the one that was compared is the one that runs.
"""

import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lightning_sparsegrad.functional._words import send
from lightning_sparsegrad.functional.hashing import WORD, entry_words, hash_index

_DEVICES = ("cuda",)
_ALIGNED = 16  # bytes of the widest access
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def is_for(tensor: Tensor) -> bool:
    """Return whether the kernels are made for such a tensor: contiguous, on an accelerator that Triton compiles for."""
    return tensor.device.type in _DEVICES and tensor.is_contiguous()


def lists_of(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Return the indices of the tensors that the kernels are made for, a list for each device and dtype."""
    lists: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if is_for(tensor):
            lists.setdefault((tensor.device, tensor.dtype), []).append(index)
    return list(lists.values())


def mask_list_(
    tensors: Sequence[Tensor],
    starts: Sequence[int],
    keys: Sequence[int],
    thresholds: Sequence[int],
    factors: Sequence[float],
) -> bool:
    """Mask single entries of each tensor in place.

    Args:
        tensors: Contiguous gradients of one device and dtype.
        starts: Index of the first entry of each, in [0, 2^64).
        keys: 64-bit keys, see `derive_key`.
        thresholds: The smallest hash that is kept, in [0, 2^32), see `keep_threshold`.
        factors: The factor of the kept entries.

    Returns:
        Whether it was done. If not, nothing was changed: the tensors differ or are not contiguous, or the kernel is
        unusable.
    """
    if not _is_usable(tensors):
        return False
    _mask_(_kernels(), tensors, starts, keys, thresholds, factors)
    return True


def scale_list_(tensors: Sequence[Tensor], factors: Tensor) -> bool:
    """Multiply each tensor in place by its factor, which is not rounded to half precision.

    Args:
        tensors: Contiguous gradients of one device and dtype.
        factors: Tensor of shape (len(tensors),) on that device, in float32 or float64.

    Returns:
        Whether it was done, as for `mask_list_`.
    """
    if not _is_usable(tensors) or factors.device != tensors[0].device:
        return False
    _scale_(_kernels(), tensors, factors)
    return True


def _is_usable(tensors: Sequence[Tensor]) -> bool:
    if not tensors or tensors[0].device.type not in _DEVICES or tensors[0].dtype not in _DTYPES:
        return False
    device, dtype = tensors[0].device, tensors[0].dtype
    alike = all(each.device == device and each.dtype == dtype and each.is_contiguous() for each in tensors)
    return alike and _is_checked(device, dtype)


def _kernels() -> ModuleType:
    return import_module("lightning_sparsegrad.functional._triton_kernels")


def _mask_(
    kernels: ModuleType,
    tensors: Sequence[Tensor],
    starts: Sequence[int],
    keys: Sequence[int],
    thresholds: Sequence[int],
    factors: Sequence[float],
) -> None:
    spans, words, scales = [], [], []
    for tensor, start, key, threshold, factor in zip(tensors, starts, keys, thresholds, factors, strict=True):
        size, begin, last = tensor.element_size(), start, start + tensor.numel()
        while begin < last:  # one span, or more if the tensor crosses a multiple of 2^32, where the key changes
            end = min(last, (begin // WORD + 1) * WORD)
            span = _span(tensor.data_ptr() + (begin - start) * size, end - begin, size)
            first, second, low, _ = entry_words(key, begin, threshold)
            spans.append(span)
            words.append([first, second, low - span[1], threshold])
            scales.append(factor)
            begin = end
    if not spans:
        return
    device, dtype = tensors[0].device, tensors[0].dtype
    table = send([[*span, *word] for span, word in zip(spans, words, strict=True)], torch.int64, device)
    scale = send(scales, _math(dtype), device)
    _launch(kernels, kernels.mask_kernel, tensors, spans, (table[:, :3].contiguous(), table[:, 3:].contiguous(), scale))


def _scale_(kernels: ModuleType, tensors: Sequence[Tensor], factors: Tensor) -> None:
    spans = [_span(tensor.data_ptr(), tensor.numel(), tensor.element_size()) for tensor in tensors]
    device, dtype = tensors[0].device, tensors[0].dtype
    arguments = send(spans, torch.int64, device), factors.to(_math(dtype)).contiguous()
    _launch(kernels, kernels.scale_kernel, tensors, spans, arguments)


def _span(address: int, count: int, size: int) -> tuple[int, int, int]:
    """Return the address rounded down, the entries to leave out at the front, and the end."""
    front = address % _ALIGNED // size
    return address - address % _ALIGNED, front, front + count


def _launch(
    kernels: ModuleType,
    kernel: Any,
    tensors: Sequence[Tensor],
    spans: Sequence[tuple[int, int, int]],
    arguments: tuple[Tensor, ...],
) -> None:
    size, dtype = kernels.BLOCK, tensors[0].dtype
    device = tensors[0].device
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    blocks = _blocks(tuple(-(-end // size) if end > front else 0 for _, front, end in spans), device, stream)
    if not len(blocks):
        return
    types = (getattr(kernels.tl, str(each).removeprefix("torch.")) for each in (dtype, _math(dtype)))
    with torch.cuda.device_of(tensors[0]):  # type: ignore[no-untyped-call]  # torch ships it without types
        kernel[(len(blocks),)](*arguments, blocks, *types, size)
    torch.autograd.graph.increment_version(tensors)  # a raw address hides the change from torch


@lru_cache(maxsize=8)  # each takes up to a thousandth of the memory of the gradients, twice that in half precision
def _blocks(counts: tuple[int, ...], device: torch.device, stream: int) -> Tensor:  # noqa: ARG001  # see below
    """Return the span of each block and its number in it, int32 of shape (blocks, 2), for numbers of blocks by span.

    Each stream has its own: no other would wait until it is filled, nor before its memory is used again.
    """
    repeats = send(counts, torch.int64, device)
    spans = torch.repeat_interleave(repeats, output_size=sum(counts))  # without the size the host would wait
    first = (repeats.cumsum(0) - repeats)[spans]
    return torch.stack([spans, torch.arange(len(spans), device=device) - first], dim=1).to(torch.int32)


def _math(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)  # a factor is not rounded to half precision


@cache
def _is_checked(device: torch.device, dtype: torch.dtype) -> bool:
    """Compare both kernels with plain torch on a sample; return `False`, with a warning, if they cannot be used."""
    key, threshold, count = 0x0123456789ABCDEF, WORD // 3, 10_000
    start = WORD - count // 2  # the key changes within the sample; on either side lies a whole block between two others
    keep = torch.tensor([hash_index(key, start + index) >= threshold for index in range(count)], device=device)
    whole = torch.linspace(-1, 1, count + 2, dtype=torch.float64, device=device).to(dtype)
    masked, scaled = whole.clone(), whole.clone()
    factors = torch.tensor([1 / 3, 1.0], device=device, dtype=_math(dtype))
    by_mask = (whole[1:-1].to(_math(dtype)) * keep * factors[0]).to(dtype)  # one entry off the boundary, at either end
    by_scale = (whole[1:-1].to(_math(dtype)) * factors[0]).to(dtype)
    try:
        kernels = _kernels()
        _mask_(kernels, [masked[1:-1]], [start], [key], [threshold], [1 / 3])
        _scale_(kernels, [scaled[1:-1], scaled[:1]], factors)
    except Exception as error:  # any error of a missing or broken compiler; torch needs none
        return _refuse(next(iter(str(error).splitlines()), type(error).__name__))
    expected = [torch.cat([whole[:1], middle, whole[-1:]]) for middle in (by_mask, by_scale)]
    if not (torch.equal(masked, expected[0]) and torch.equal(scaled, expected[1])):
        return _refuse("its results differ from those of torch")
    return True


def _refuse(reason: str) -> bool:
    warnings.warn(
        f"Gradients are changed without kernels of Triton, tensor by tensor and slower: {reason}", stacklevel=2
    )
    return False
