"""Numbers that kernels need in a window, copied to each device in one transfer without waiting."""

from collections.abc import Sequence

import torch
from torch import Tensor


def send(values: Sequence[float] | Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy numbers to a device in one transfer, without making the host wait.

    Args:
        values: Numbers, or rows of them.
        dtype: Dtype of the result.
        device: Device of the result.
    """
    return _copy(torch.tensor(values, dtype=dtype, device="cpu"), device)


def cpu_words(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of int32 as a tensor on the CPU."""
    return torch.tensor(rows, dtype=torch.int32, device="cpu")


def _copy(numbers: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        numbers = numbers.pin_memory()  # a copy from pageable memory would wait for staging
    return numbers.to(device, non_blocking=True)


def send_rows(blocks: Sequence[tuple[torch.device, Tensor]]) -> list[Tensor]:
    """Copy blocks of rows to their devices, in one transfer per device.

    Args:
        blocks: For each block its device and its rows, a tensor on the CPU; all of one dtype and length.

    Returns:
        For each block its rows on its device, a view of the transferred tensor.
    """
    views = {}
    for device in dict.fromkeys(device for device, _ in blocks):
        together = [rows for target, rows in blocks if target == device]
        words = _copy(torch.cat(together), device)
        views[device] = iter(torch.split(words, [len(rows) for rows in together]))
    return [next(views[device]) for device, _ in blocks]
