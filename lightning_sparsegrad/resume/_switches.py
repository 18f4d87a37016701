"""Switches that hooks set at the start of an epoch, which a resume within the epoch would not see."""

from typing import Any

from lightning.pytorch import Trainer


def switches(trainer: Trainer, *, configured: int) -> dict[str, Any]:
    """Return what accumulates, is frozen and evaluates.

    Args:
        trainer: The Trainer, outside a window: within one, the engine freezes what it need not compute.
        configured: Micro-batches of a window as the Trainer was made.
    """
    module = trainer.lightning_module
    return {
        "accumulate": {"configured": configured, "now": trainer.accumulate_grad_batches},
        "frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
        # before training, Lightning has it all evaluate for its check of the validation
        "evaluating": [name for name, part in module.named_modules() if not part.training]
        if trainer.training
        else None,
    }


def set_switches(trainer: Trainer, switched: dict[str, Any], *, within_epoch: bool, configured: int) -> None:
    """Restore what `switches` returned; a Trainer made with another accumulation keeps its own."""
    module, accumulate = trainer.lightning_module, switched["accumulate"]
    if within_epoch and accumulate["configured"] == configured:  # else the epoch's start decides
        trainer.accumulate_grad_batches = accumulate["now"]
    frozen = frozenset(switched["frozen"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if switched["evaluating"] is not None:
        evaluating = frozenset(switched["evaluating"])
        for name, part in module.named_modules():
            part.training = name not in evaluating
