"""The demands of a step on an accelerator, observed on meta tensors: reads on the host, and copies from it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
_READS = frozenset({"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2"})
_COPIES = frozenset({"_to_copy", "copy_", "copy"})
_MADE_OF_NUMBERS = frozenset({"tensor", "as_tensor", "asarray"})
_INDEXED = frozenset({"__getitem__", "__setitem__"})


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Fails where the host would wait for a device, and records what it sends there.

    Args:
        may_read: How many numbers the host may read; each is 0.

    Attributes:
        reads: How many it has read.
        copies: Number of entries of each tensor that was sent. A tensor on the host that enters an operation on the
            device is one of them, but for a 0-d one in arithmetic, which travels as an argument of the kernel.
        launched: Names of the operations on the device.
    """

    def __init__(self, may_read: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.may_read, self.reads = may_read, 0
        self.copies: list[int] = []
        self.launched: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        given = _tensors((args, kwargs))
        if name in _READS and any(tensor.is_meta for tensor in given):
            assert self.reads < self.may_read, f"`{name}` waits for the device"
            self.reads += 1
            return 0
        result = func(*args, **(kwargs or {}))
        made = _tensors(result)
        if any(tensor.is_meta for tensor in given + made):
            self.launched.append(name)
            self.copies += [t.numel() for t in given if not t.is_meta and (t.ndim or name in _COPIES)]
        return result


class _Numbers(TorchFunctionMode):
    """Records what is copied inside of a function, where no operation is seen: numbers that become a tensor.

    Args:
        copies: Where to record it.
    """

    def __init__(self, copies: list[int]) -> None:
        super().__init__()
        self.copies = copies

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _MADE_OF_NUMBERS and result.is_meta and not any(t.is_meta for t in _tensors(args)[:1]):
            self.copies.append(result.numel())
        if name == "new_tensor" and result.is_meta:
            self.copies.append(result.numel())
        if name in _INDEXED and args[0].is_meta:
            self.copies += [len(index) for index in _as_tuple(args[1]) if isinstance(index, list)]
        return result


def traffic_of(run: Callable[[], Any], *, reads: int = 0) -> Traffic:
    """Run something on meta tensors, and return what it asked of the device; the host may read some numbers."""
    traffic = Traffic(reads)
    with traffic, _Numbers(traffic.copies):
        run()
    return traffic


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)
