"""Private names of Lightning that every fit with a transform needs.

There are no public equivalents. Each name is checked against the installed version in `tests/private_names.py`.
"""

from lightning.pytorch import LightningModule, Trainer

from lightning_sparsegrad.errors import needs_private_names

_every_fit = needs_private_names("lightning", "a fit with a gradient transform")


@_every_fit
def should_accumulate(trainer: Trainer) -> bool:
    """Return whether no optimizer step follows the current batch: the check that Lightning makes before a step.

    Without it a transform would see the gradient of an incomplete accumulation window. No upstream issue; a hook
    between the last backward pass and the unscaling of gradients would make this unnecessary.
    """
    return trainer.fit_loop._should_accumulate()


@_every_fit
def passes_over_batch_norms(trainer: Trainer) -> bool:
    """Return whether `StochasticWeightAveraging` runs over the data for batch norm statistics, without training.

    Without it the last gradients, which still exist, would move the averaged weights. No upstream issue.
    """
    return trainer.fit_loop._skip_backward


@_every_fit
def forget_loaders(trainer: Trainer) -> None:
    """Make Lightning set up the training data again, when it restores the position of a loader.

    Counting the steps of a fit sets up the data earlier, and the position would be lost: Lightning#20550 (open), which
    Lightning#21765 (open) would fix; then this is not needed.
    """
    trainer.fit_loop._combined_loader = None


@_every_fit
def set_trainer(module: LightningModule, trainer: Trainer | None) -> None:
    """Set the Trainer of a module as `LightningModule` does, from a property that overrides its own.

    Without it no moment before the start of a fit could be observed. No upstream issue.
    """
    LightningModule.trainer.fset(module, trainer)  # type: ignore[attr-defined]  # mypy takes it for its value
