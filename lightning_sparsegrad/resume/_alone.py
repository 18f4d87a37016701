"""One process of several after an exception: it must not wait for the others, which may never arrive."""

from typing import Any

from lightning.pytorch import Trainer

from lightning_sparsegrad.functional.sharding import is_spread
from lightning_sparsegrad.resume._lightning_methods import has_left_collectives, leave_collectives, rejoin_collectives


def leave_others(trainer: Trainer) -> None:
    """Make a Trainer stop waiting for other processes, until `rejoin_others`.

    Lightning's checkpoints wait: at a barrier when one is written, and in a vote on whether its name is taken.
    """
    if trainer.world_size > 1:
        leave_collectives(trainer, _own)


def rejoin_others(trainer: Trainer) -> None:
    """Undo `leave_others`."""
    rejoin_collectives(trainer)


def is_alone(trainer: Trainer) -> bool:
    """Return whether a Trainer has left the other processes."""
    return has_left_collectives(trainer)


def why_not_alone(trainer: Trainer) -> str | None:
    """Return why one process cannot write a checkpoint now, or `None`."""
    if not is_alone(trainer):
        return None
    if any(is_spread(parameter) for parameter in trainer.lightning_module.parameters()):
        return "and the weights are sharded over several processes."
    # ZeRO, whose optimizers gather their states on request
    if any(callable(getattr(optimizer, "consolidate_state_dict", None)) for optimizer in trainer.optimizers):
        return "and the optimizer's state is sharded over several processes."
    return None


def _own(value: Any = None, *_: Any, **__: Any) -> Any:
    """Return the value of this process in place of a collective result."""
    return value
