"""Windows whose gradients are infinite or undefined: passed on, skipped or refused."""

from collections.abc import Mapping
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_sparsegrad.errors import require_one_of
from lightning_sparsegrad.functional import tensor_norms
from lightning_sparsegrad.functional.sharding import group_of
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window, needless

_ELSEWHERE = "a parameter that another process holds whole"
NonFinite = Literal["propagate", "skip", "raise"]


def check_policy(nonfinite: NonFinite) -> None:
    """Raise a `ConfigurationError` unless `nonfinite` is one of the policies."""
    require_one_of("nonfinite", nonfinite, get_args(NonFinite))


class NonFinitePolicy:
    """The policy for windows with a gradient that is infinite or undefined, with a count of them.

    Args:
        nonfinite: The policy, see `GradientEngine`.

    Attributes:
        count: The windows so far whose gradients were not finite, if the policy looks at them.
    """

    def __init__(self, nonfinite: NonFinite) -> None:
        check_policy(nonfinite)
        self._policy, self.count = nonfinite, 0

    def skips(self, gradients: Gradients, transform: GradientTransform, window: Window) -> bool:
        """Return whether the window is skipped.

        Raises:
            FloatingPointError: If the policy is `"raise"`.
        """
        if self._policy == "propagate":
            return False
        unread = needless(transform, window)
        name = first_nonfinite({name: gradient for name, gradient in gradients.items() if name not in unread})
        if name is None:
            return False
        self.count += 1
        if gradients.under_loss_scaling:
            return False
        if self._policy == "raise":
            raise FloatingPointError(
                f"Gradients should be finite with `nonfinite = 'raise'`. Found an infinite or undefined one, of "
                f"`{name}`, at step {window.step}."
            )
        return True

    @property
    def statistics(self) -> dict[str, Tensor]:
        """`nonfinite`: the count; nothing if the policy looks at no window."""
        return {} if self._policy == "propagate" else {"nonfinite": torch.tensor(float(self.count))}


@torch.no_grad()
def first_nonfinite(gradients: Mapping[str, Tensor]) -> str | None:
    """Return the first name whose gradient is not finite everywhere; `None` on every process or on none.

    It costs one pass over the gradients, two collectives if they are sharded, and one 0-d read on the host.

    Args:
        gradients: Name to gradient, whole or sharded by rows.
    """
    if not gradients:
        return None
    bad = ~tensor_norms(list(gradients.values()), norm_type=inf).isfinite()
    groups = [group_of(gradient) for gradient in gradients.values()]
    any_bad = bad.any().float()
    for group in dict.fromkeys(group for group in groups if group is not None):
        # gradients that are whole on each process, beside sharded ones, may not have been reduced
        torch.distributed.all_reduce(any_bad, torch.distributed.ReduceOp.MAX, group=group)
    if not any_bad:
        return None
    return next((name for name, is_bad in zip(gradients, bad.tolist(), strict=True) if is_bad), _ELSEWHERE)
