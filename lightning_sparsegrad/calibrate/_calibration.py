"""A fit that takes no step: its strategy sums gradients of single samples, and chooses by them what trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sparsegrad.calibrate._samples import require_some
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.explain._rehearsal import owner_of_adapter, replace_steps
from lightning_sparsegrad.loops._callbacks import put_first
from lightning_sparsegrad.transforms import Chain, SparseMask
from lightning_sparsegrad.transforms.base import GradientTransform
from lightning_sparsegrad.transforms.masks._scores import OF_GRADIENTS


class Calibration(Callback):
    """Has the `SparseMask` of a fit choose what trains by the gradients of single samples, in evaluation mode.

    It stands alone in this fit, without the rest of a chain: a strategy that calibrates is given the gradients as they
    are.

    Args:
        samples: The number of samples, fewer if the data have fewer.
        notes: Lines for the user, to which further ones are added.
    """

    def __init__(self, samples: int, notes: list[str]) -> None:
        self._asked, self._notes = samples, notes
        self.samples = 0
        """The number of samples that there were, once the fit has ended."""
        self.address: str | None = None
        """The arguments that lead to the mask from the strategy of the fit, as `.transforms.mask`; `None`: none do."""

    def join(self, trainer: Trainer, module: LightningModule) -> None:
        """Calibrate in the next fit of a Trainer.

        Raises:
            ConfigurationError: If its strategy does not hold one `SparseMask` that scores gradients.
        """
        if not module.automatic_optimization:
            raise ConfigurationError(
                f"Parameter `model` should have automatic optimization, so that a window is one sample. "
                f"Found `{type(module).__name__}`, which steps by itself."
            )
        adapter = owner_of_adapter(trainer, module)._loop_adapter
        self.address, mask = _the_one_mask(adapter.transform)
        adapter.transform = mask = deepcopy(mask)
        mask.calibration_windows = 0  # until the data are known: a fit that calibrates in every step is refused
        adapter._nonfinite = "propagate"  # to the mask, which leaves such samples out
        self._adapter = adapter
        replace_steps(module, partial(self._window_end, trainer, module))
        put_first(trainer, self)

    @property
    def mask(self) -> SparseMask:
        """The mask of the fit."""
        mask = self._adapter.engine.transform
        assert isinstance(mask, SparseMask)  # noqa: S101  # it stands alone
        return mask

    def end(self, trainer: Trainer) -> None:
        """Choose, where data of unknown length have ended before; note what was left out.

        Raises:
            ConfigurationError: If there was no sample.
        """
        self.samples = trainer.global_step
        require_some(self.samples)
        if self.mask._scores is not None:
            self.mask._choose(0)
        if self.samples < self._asked:
            self._notes.append(f"the data have {self.samples:,} samples, fewer than the {self._asked:,} asked for")
        assert self._scores is not None  # noqa: S101  # of a fit that has started
        if lost := self.samples - int(self._scores.windows):
            self._notes.append(f"{lost:,} of them count for nothing: a gradient was infinite or undefined")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.lr_scheduler_configs = []  # what they would scale is never stepped
        self.mask.calibration_windows = int(min(self._asked, trainer.num_training_batches))
        self._scores = self.mask._scores  # which the mask lets go of

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        pl_module.eval()  # here, since hooks of a module may set it to training mode

    def _window_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        optimizer: Optimizer,
        optimizer_closure: Callable[[], Any],
    ) -> None:
        """Compute the gradients of a sample, in place of a step."""
        optimizer_closure()
        self._adapter.before_optimizer_step(trainer, module, optimizer)  # calibrates if there was no loss


def _the_one_mask(transform: GradientTransform) -> tuple[str | None, SparseMask]:
    masks = [each for each in _masks_of(transform, "") if each[1].score in OF_GRADIENTS]
    if len(masks) != 1:
        count = "several" if masks else "none"
        raise ConfigurationError(
            f"Parameter `gradient_transform` should hold one `SparseMask` whose `score` is one of "
            f"{', '.join(map(repr, OF_GRADIENTS))}. Found {count} in `{transform!r}`."
        )
    return masks[0]


def _masks_of(transform: GradientTransform, address: str | None) -> Iterator[tuple[str | None, SparseMask]]:
    """Yield the masks in a strategy, each with the arguments that lead to it: `.transforms.mask`."""
    if isinstance(transform, SparseMask):
        yield address, transform
    elif isinstance(transform, Chain):
        for name, member in transform.transforms.items():
            is_listed = name.startswith(type(member).__name__)  # as a chain names the members of a list
            yield from _masks_of(member, None if address is None or is_listed else f"{address}.transforms.{name}")
    else:
        yield from ((None, each) for each in transform.flattened() if isinstance(each, SparseMask))
