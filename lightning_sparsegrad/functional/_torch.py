"""Private names of torch that the rooms of torch alone need, and those above them.

No public name does what these do. Each is checked against the installed version in `tests/private_names.py`.
"""

from typing import Any

import torch
from torch import Tensor, nn

Tensors = tuple[Tensor, ...] | list[Tensor]  # what torch takes

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What `torch.compile`, FSDP1 and activation checkpointing insert into the names of what they wrap.

Without them a pattern for parameters means something else on a wrapped model. pytorch#101107 (open) is of the first."""


def norms_of(tensors: Tensors, norm_type: float = 2.0, *, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
    """Return the norm of each tensor, in few launches on an accelerator.

    Without it each norm is a launch of its own. pytorch#193607 makes it public as `torch.foreach`: then this goes.

    Args:
        tensors: At least one.
        norm_type: 2.0 or infinity.
        dtype: What the norms are computed in; that of the tensors by default.
    """
    if dtype is None:
        return torch._foreach_norm(tensors, norm_type)
    return torch._foreach_norm(tensors, norm_type, dtype=dtype)


def multiply_(tensors: Tensors, factors: Tensors | Tensor) -> None:
    """Multiply each tensor in place by its factor, or by one for all, in few launches on an accelerator.

    As for `norms_of`: pytorch#193607.
    """
    torch._foreach_mul_(tensors, factors)


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place.

    By it the engine sees that a gradient was accumulated into after it was last looked at. No upstream issue.
    """
    return tensor._version


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` has wrapped, or the module itself.

    Without it DDP and the blocks of a compiled model are not recognised. pytorch#101107 (open): this goes when the
    wrapper has a public way to what it wraps.
    """
    return getattr(module, "_orig_mod", module)


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is compiled as one, or has a method that is.

    Without it, work is left out in a compiled region, which then computes gradients that are dropped. No upstream
    issue.
    """
    return (
        hasattr(module, "_orig_mod")  # torch.compile(module)
        or module._compiled_call_impl is not None  # module.compile()
        or any(hasattr(member, "_torchdynamo_orig_callable") for member in _members(module))  # torch.compile(a method)
    )


def tables_of(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the very dictionaries in which a module keeps its parameters and its modules.

    They tell in every window whether something was put into the model; walking the tree by name would cost as much as a
    clip. No upstream issue.
    """
    return module._parameters, module._modules


def _members(module: nn.Module) -> list[Any]:
    return [*vars(module).values(), *(member for owner in type(module).__mro__ for member in vars(owner).values())]
