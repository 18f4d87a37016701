"""Settings that hooks change at the start of an epoch, which a resume within the epoch would miss."""

from typing import Any

from lightning.pytorch import Trainer


def switches(trainer: Trainer, *, configured: int) -> dict[str, Any]:
    """Return the accumulation, the frozen parameters and the modules in eval mode.

    Args:
        trainer: The Trainer, outside a window: within one, the engine freezes tensors to skip work.
        configured: Micro-batches per window as the Trainer was constructed.
    """
    module = trainer.lightning_module
    return {
        "accumulate": {"configured": configured, "now": trainer.accumulate_grad_batches},
        "frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
        # before training, Lightning sets all modules to eval mode for its sanity check
        "evaluating": [name for name, member in module.named_modules() if not member.training]
        if trainer.training
        else None,
    }


def set_switches(trainer: Trainer, switched: dict[str, Any], *, within_epoch: bool, configured: int) -> None:
    """Restore what `switches` returned; a Trainer constructed with another accumulation keeps its own."""
    module, accumulate = trainer.lightning_module, switched["accumulate"]
    if within_epoch and accumulate["configured"] == configured:  # otherwise the start of the epoch decides
        trainer.accumulate_grad_batches = accumulate["now"]
    frozen = frozenset(switched["frozen"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if switched["evaluating"] is not None:
        evaluating = frozenset(switched["evaluating"])
        for name, member in module.named_modules():
            member.training = name not in evaluating
