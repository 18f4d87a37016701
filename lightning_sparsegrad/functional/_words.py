"""Numbers that kernels need of a window, copied to the devices: once for each of them, and nobody waits for it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def send(values: Sequence[float] | Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy numbers to a device in one transfer that the host does not wait for.

    Args:
        values: Numbers, or rows of them.
        dtype: What they become.
        device: Where they go.
    """
    numbers = torch.tensor(values, dtype=dtype, device="cpu")
    if device.type == "cuda":
        numbers = numbers.pin_memory()  # from pageable memory, a copy waits until it is staged
    return numbers.to(device, non_blocking=True)


def send_rows(blocks: Sequence[tuple[torch.device, Sequence[Sequence[int]]]]) -> list[Tensor]:
    """Send blocks of int32 rows to their devices, all that go to one of them together.

    Args:
        blocks: For each block its device, and its rows, all of one length.

    Returns:
        For each block a tensor of shape (rows, length) on its device, a view of what was sent.
    """
    views = {}
    for device in dict.fromkeys(device for device, _ in blocks):
        together = [rows for target, rows in blocks if target == device]
        words = send([row for rows in together for row in rows], torch.int32, device)
        views[device] = iter(torch.split(words, [len(rows) for rows in together]))
    return [next(views[device]) for device, _ in blocks]
