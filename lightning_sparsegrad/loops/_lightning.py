"""Private names of Lightning that every fit with a transform needs.

No public name does what these do. Each is checked against the installed version in `tests/private_names.py`.
"""

from lightning.pytorch import LightningModule, Trainer

from lightning_sparsegrad.errors import needs_private_names

_every_fit = needs_private_names("lightning", "a fit with a gradient transform")


@_every_fit
def should_accumulate(trainer: Trainer) -> bool:
    """Return whether no optimizer step follows the batch at hand: the very question Lightning asks before it runs one.

    Without it a transform would see the gradient of a part of an accumulation window. No upstream issue; a hook between
    the last backward pass and the unscaling of gradients would end it.
    """
    return trainer.fit_loop._should_accumulate()


@_every_fit
def passes_over_batch_norms(trainer: Trainer) -> bool:
    """Return whether `StochasticWeightAveraging` passes over the data for the statistics of batch norms, untrained.

    Without it the last gradients, which are still there, would move the averaged weights. No upstream issue.
    """
    return trainer.fit_loop._skip_backward


@_every_fit
def forget_loaders(trainer: Trainer) -> None:
    """Have Lightning set the training data up again, when it restores where a loader stands.

    Counting the steps of a fit sets the data up before, and the position is lost: Lightning#20550 (open), which
    Lightning#21765 (open) would close; then this goes.
    """
    trainer.fit_loop._combined_loader = None


@_every_fit
def set_trainer(module: LightningModule, trainer: Trainer | None) -> None:
    """Give a module its Trainer as `LightningModule` does, from a property that takes the place of its own.

    Without it no moment before a fit starts would be known. No upstream issue.
    """
    LightningModule.trainer.fset(module, trainer)  # type: ignore[attr-defined]  # mypy takes it for its value
