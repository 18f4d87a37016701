"""One process of several after an exception: the others may not come along, so nothing waits for them."""

from typing import Any

from lightning.pytorch import Trainer

from lightning_sparsegrad.functional.sharding import is_spread
from lightning_sparsegrad.resume._lightning_methods import has_left_collectives, leave_collectives, rejoin_collectives


def leave_others(trainer: Trainer) -> None:
    """Have a Trainer wait for no other process any more, until `rejoin_others`.

    Lightning's checkpoints do: a barrier when one is written, and a vote on whether there is one of that name already.
    """
    if trainer.world_size > 1:
        leave_collectives(trainer, _own)


def rejoin_others(trainer: Trainer) -> None:
    """Take back what `leave_others` did."""
    rejoin_collectives(trainer)


def is_alone(trainer: Trainer) -> bool:
    """Return whether a Trainer has left the other processes."""
    return has_left_collectives(trainer)


def why_not_alone(trainer: Trainer) -> str | None:
    """Return why one process cannot write a checkpoint now, or `None`."""
    if not is_alone(trainer):
        return None
    if any(is_spread(parameter) for parameter in trainer.lightning_module.parameters()):
        return "and each of several processes holds a part of the weights."
    # ZeRO, whose optimizers gather their states when asked for them
    if any(callable(getattr(optimizer, "consolidate_state_dict", None)) for optimizer in trainer.optimizers):
        return "and each of several processes holds a part of the optimizer's state."
    return None


def _own(value: Any = None, *_: Any, **__: Any) -> Any:
    """Return what this process has, in place of what all have."""
    return value
