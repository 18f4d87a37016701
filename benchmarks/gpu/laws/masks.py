"""Laws of masks: the bits are those of the CPU."""

import warnings
from importlib.util import find_spec
from itertools import product
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.gpu.laws._law import (
    UnsupportedError,
    differing,
    engine_for,
    entries_apart,
    gradients_of,
    set_gradients,
    small,
)
from lightning_sparsegrad import GradDrop, functional
from lightning_sparsegrad.functional._fused import fused_mask_, fused_words
from lightning_sparsegrad.functional._triton import mask_list_, scale_list_
from lightning_sparsegrad.functional._words import send
from lightning_sparsegrad.transforms.masks.grad_drop import Granularity

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CPU = torch.device("cpu")
_KEY, _RATE, _WORD = 0x0123456789ABCDEF, 0.3, 1 << 32
_SIZES = (0, 1, 2, 31, 1023, 1024, 1025, 8191, 8192, 8193, 65539, 300_001)


def check_every_granularity(device: torch.device) -> str:
    """Each granularity in each dtype masks what it masks on the CPU."""
    number = 0
    for dtype, granularity, rescale in product(DTYPES, get_args(Granularity), (False, True)):
        _compare(
            device, dtype, granularity=granularity, rescale=rescale, fused=False if granularity == "element" else None
        )
        number += 1
    return f"{number} kinds of masks"


def check_lists(device: torch.device) -> str:
    """The kernel over lists gives the bits of the eager path on the CPU, and is in use."""
    if device.type != "cuda":
        raise UnsupportedError("needs a GPU")
    _require_list_kernel(device)
    for dtype, rescale, fused in product(DTYPES, (False, True), (None, True)):
        _compare(device, dtype, granularity="element", rescale=rescale, fused=fused)
    return "16 kinds of masks"


def check_scaled_lists(device: torch.device) -> str:
    """The kernel over lists multiplies by factors as torch does."""
    if device.type != "cuda":
        raise UnsupportedError("needs a GPU")
    _require_list_kernel(device)
    for dtype in DTYPES:
        wide = torch.promote_types(dtype, torch.float32)
        tensors = [_numbers(size, dtype).to(device)[first:] for size in _SIZES for first in (0, 1)]
        factors = torch.linspace(0.3, 1, len(tensors), dtype=wide)
        expected = [(each.cpu().to(wide) * factor).to(dtype) for each, factor in zip(tensors, factors, strict=True)]
        assert scale_list_(tensors, factors.to(device)), f"not done in {dtype}"
        apart = [entries_apart(*pair) for pair in zip(tensors, expected, strict=True)]
        assert not any(apart), f"in {dtype}, {apart} entries differ"
    return f"{len(DTYPES)} dtypes"


def _require_list_kernel(device: torch.device) -> None:
    if find_spec("triton") is None:
        raise UnsupportedError("Triton is not installed")
    for dtype in DTYPES:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            is_done = mask_list_([torch.ones(5000, dtype=dtype, device=device)], [0], [_KEY], [_WORD // 3], [1.0])
        assert is_done, f"the kernel is not in use in {dtype}: {[str(warning.message) for warning in caught]}"


def check_compiled(device: torch.device) -> str:
    """The compiled kernel gives the bits of the eager path on the CPU."""
    size, start = 300_001, 5000
    for dtype, factor in product(DTYPES[:3], (1.0, 1 / 0.7)):
        here, there = (_numbers(size, dtype).to(target) for target in (CPU, device))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            words = fused_words(there, start, _KEY, functional.keep_threshold(_RATE))
            if words is None:
                raise UnsupportedError(str([str(warning.message) for warning in caught]))
            left = fused_mask_(there, start, send(words, torch.int32, device), factor)
        assert left is not None, f"{dtype}: {[str(warning.message) for warning in caught]}"
        rest = sum(piece.numel() for _, piece in left)
        assert rest < 4096, f"{rest} entries are left over"
        for first, piece in left:
            piece.mul_(functional.keep_mask(piece.shape, _KEY, _RATE, start=first, device=device)).mul_(factor)
        here.mul_(functional.keep_mask(here.shape, _KEY, _RATE, start=start)).mul_(factor)
        apart = entries_apart(here, there)
        assert not apart, f"{dtype}, factor {factor}: {apart} of {size} differ"
    return "6 kinds of masks"


def _compare(device: torch.device, dtype: torch.dtype, **arguments: Any) -> None:
    masked = []
    for target, options in ((device, arguments), (CPU, {**arguments, "fused": None})):
        model = small(target, dtype)
        engine = engine_for(model, GradDrop(_RATE, **options))
        for step in (0, 3):
            set_gradients(model, step)
            with engine.window(step):
                engine.apply_()
        masked.append(gradients_of(model))
    apart = differing(*masked)
    assert not apart, f"{dtype}, {arguments}: {apart}"


def check_layouts(device: torch.device) -> str:
    """Sizes around the blocks of kernels, layouts that are not contiguous, slices that begin anywhere."""
    number = 0
    for dtype, fused in product(DTYPES[:3], (False, True) if device.type == "cuda" else (False,)):
        tensors = {
            **{str(size): _numbers(size, dtype) for size in _SIZES},
            "transposed": _numbers(300 * 70, dtype).view(300, 70).t(),
            "every other": _numbers(40_000, dtype)[::2],
            "unaligned": _numbers(30_001, dtype)[1:],
            "channels last": _numbers(2 * 16 * 8 * 40, dtype)
            .view(2, 16, 8, 40)
            .contiguous(memory_format=torch.channels_last),
        }
        there = {name: _like(tensor, device) for name, tensor in tensors.items()}
        keys = [_KEY + 977 * index for index in range(len(tensors))]
        rates = [(0.3, 0.0, 1.0, 1e-9, 0.999, 0.5)[index % 6] for index in range(len(tensors))]
        functional.mask_entries_(list(there.values()), keys, rates, fused=fused)
        expected = {
            name: tensor * functional.keep_mask(tensor.shape, key, rate)
            for (name, tensor), key, rate in zip(tensors.items(), keys, rates, strict=True)
        }
        apart = differing(expected, there)
        assert not apart, f"{dtype}, fused: {fused}: {apart}"
        number += len(tensors)
    return f"{number} tensors"


def _numbers(size: int, dtype: torch.dtype) -> Tensor:
    return ((torch.arange(size) % 61 + 1).float() / 64).to(dtype)


def _like(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy on a device with the same strides, unaligned where the tensor is."""
    room = torch.empty(tensor.untyped_storage().nbytes() // tensor.element_size(), dtype=tensor.dtype, device=device)
    copy = room.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return copy.copy_(tensor)


def check_overflow(device: torch.device) -> str:
    """A dropped entry that overflowed is not finite afterwards, and no other one is touched."""
    for dtype, granularity in product(DTYPES[:3], ("element", "row")):
        model = small(device, dtype)
        engine = engine_for(model, GradDrop(0.999, granularity=granularity))
        set_gradients(model, 0)
        for parameter in model.parameters():
            if parameter.grad is not None and parameter.grad.ndim == 2 and parameter.numel():
                parameter.grad[1, 1] = torch.inf
        with engine.window(0):
            engine.apply_()
        for name, gradient in gradients_of(model).items():
            if gradient is not None and gradient.ndim == 2 and gradient.numel():
                lost = int((~gradient.isfinite()).sum())
                assert lost == 1, f"{name} in {dtype} by {granularity}: {lost} entries are not finite in place of 1"
    return "6 kinds of masks"


def check_random_state(device: torch.device) -> str:
    """Masks leave the random state of the device as it is."""
    states = []
    for transform in (None, GradDrop(0.3), GradDrop(0.3, granularity="row"), GradDrop(0.3, granularity="component")):
        model = small(device)  # which sets the seed of a GPU
        set_gradients(model, 0)
        torch.manual_seed(3)
        if transform is not None:
            with (engine := engine_for(model, transform)).window(0):
                engine.apply_()
        states.append(torch.rand(8, device=device))
    apart = [entries_apart(states[0], state) for state in states[1:]]
    assert not any(apart), f"of 8 random numbers, {apart} are others"
    return "3 masks"


def check_beyond_words(device: torch.device) -> str:
    """A tensor of more than 2^32 entries has the mask of the CPU on both sides of the border, and at its end."""
    if device.type == "cpu":
        raise UnsupportedError("a tensor of 2^32 entries is for a GPU")
    size, around = _WORD + 5001, 2000
    if torch.cuda.get_device_properties(device).total_memory < 24 << 30:
        raise UnsupportedError("needs 24 GB")
    tensor = torch.empty(size, dtype=torch.bfloat16, device=device)
    for fused in (False, True):
        functional.mask_entries_([tensor.fill_(1)], [_KEY], [_RATE], fused=fused)
        for start in (0, (1 << 31) - around // 2, _WORD - around // 2, size - around):
            kept = tensor[start : start + around].cpu() != 0
            apart = int((kept != functional.keep_mask((around,), _KEY, _RATE, start=start)).sum())
            assert not apart, f"fused: {fused}, from entry {start}, {apart} of {around} differ"
        share = float((tensor != 0).sum() / size)
        assert abs(share - 0.7) < 1e-4, f"fused: {fused}, {share:.5f} are kept"
    return f"{share:.5f} kept of 2^32 + 5001"
