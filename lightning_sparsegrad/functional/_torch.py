"""Private names of torch that the packages on torch alone need, and those above them.

There are no public equivalents. Each name is checked against the installed version in `tests/private_names.py`.
"""

from collections.abc import Callable
from math import inf
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer

_P = ParamSpec("_P")
_R = TypeVar("_R")
Tensors = tuple[Tensor, ...] | list[Tensor]  # as torch takes them

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What `torch.compile`, FSDP1 and activation checkpointing insert into the names of what they wrap.

Without these names a pattern for parameters would mean something else on a wrapped model. pytorch#101107 (open) is
about the first."""


def norms_of(tensors: Tensors, norm_type: float = 2.0, *, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
    """Return the norm of each tensor, in few launches on an accelerator.

    Without it each norm is one launch. pytorch#193607 makes it public as `torch.foreach`, which will replace this.

    Args:
        tensors: At least one.
        norm_type: 2.0 or infinity.
        dtype: The dtype in which norms are computed; that of the tensors by default.
    """
    if norm_type == inf and all(tensor.is_cpu and tensor.numel() for tensor in tensors):  # 13 times as fast there
        ends = (tensor.aminmax() for tensor in tensors)
        return tuple(torch.maximum(-low, high).to(low.dtype if dtype is None else dtype) for low, high in ends)
    if dtype is None:
        return torch._foreach_norm(tensors, norm_type)
    return torch._foreach_norm(tensors, norm_type, dtype=dtype)


def multiply_(tensors: Tensors, factors: Tensors | Tensor) -> None:
    """Multiply each tensor in place by its own factor or a common one, in few launches on an accelerator.

    As for `norms_of`: pytorch#193607.
    """
    torch._foreach_mul_(tensors, factors)


def copy_(tensors: Tensors, others: Tensors) -> None:
    """Overwrite each tensor with another of its shape, in one call.

    As for `norms_of`: pytorch#193607.
    """
    torch._foreach_copy_(tensors, others)


def version_of(tensor: Tensor) -> int:
    """Return how many times a tensor was changed in place.

    It shows the engine that a gradient was accumulated into since it was last read. No upstream issue.
    """
    return tensor._version


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` has wrapped, or the module itself.

    Without it DDP and the blocks of a compiled model are not recognised. pytorch#101107 (open): not needed once the
    wrapper gives public access to the wrapped module.
    """
    return getattr(module, "_orig_mod", module)


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is compiled as a whole or has a compiled method.

    Without it, work would be skipped in a compiled region, which then computes gradients that are dropped. No upstream
    issue.
    """
    return (
        hasattr(module, "_orig_mod")  # torch.compile(module)
        or module._compiled_call_impl is not None  # module.compile()
        or any(hasattr(member, "_torchdynamo_orig_callable") for member in _members(module))  # torch.compile(a method)
    )


def is_unscaled(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Return whether the gradients of an optimizer have been unscaled since the last update of a gradient scaler.

    Without it, thresholds would be compared with gradients that a clip has unscaled before, and changed. No upstream
    issue.
    """
    state = scaler._per_optimizer_states.get(id(optimizer))
    return state is not None and state["stage"] is not OptState.READY


def eagerly(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return a method that runs as plain Python within a program that `torch.compile` compiles.

    Compiled, the keys and rates of one window would be constants of the next ones. `torch.compiler.disable` is public,
    and would import the compiler with this package. No upstream issue.
    """
    return torch._disable_dynamo(method)  # type: ignore[attr-defined]  # private


def tables_of(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the dictionaries in which a module keeps its parameters and its submodules (not copies).

    They show in every window whether something was added to the model; walking the tree by name would cost as much as a
    clip. No upstream issue.
    """
    return module._parameters, module._modules


def inside_wrapper(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside a wrapper that has no hooks of its own, or the optimizer itself.

    Accelerate and Fabric return such wrappers: a hook registered with one would be lost. No upstream issue.
    """
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer) and "_optimizer_step_pre_hooks" not in vars(optimizer):
        return inside_wrapper(inner)
    return optimizer


def _members(module: nn.Module) -> list[Any]:
    return [*vars(module).values(), *(member for owner in type(module).__mro__ for member in vars(owner).values())]
