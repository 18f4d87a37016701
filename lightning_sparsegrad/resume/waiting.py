"""A checkpoint asked for inside an accumulation window waits for the window's end, or is refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from lightning_sparsegrad.twins import is_a


class WaitingCheckpoints(Callback):
    """Has checkpoints that are asked for inside a window written when the window has ended.

    Inside a window the gradients of earlier micro-batches belong to the state of the training, and no checkpoint holds
    them. So what `Trainer.save_checkpoint` is asked for there, by a ModelCheckpoint or by anybody, is written after the
    optimizer step; the removal of an older checkpoint and a link to the new one wait with it. Where there is no such
    moment any more, after an exception or the end of the training inside a window, nothing is written, and a warning
    says so. Checkpoints of weights alone (`weights_only=True`) hold nothing to go on from, and do not wait.

    Attributes:
        holds_gradient: Whether a gradient waits for an optimizer step that only its owner knows of, as under manual
            optimization; asked beside the Trainer.
    """

    def __init__(self) -> None:
        self.holds_gradient: Callable[[], bool] | None = None
        self._requests: dict[str, Callable[[], None]] = {}
        self._followers: list[Callable[[], None]] = []
        self._broken_off = False

    @classmethod
    def of(cls, trainer: Trainer) -> "WaitingCheckpoints":
        """Return the one that a Trainer has; it gets one if it has none."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by its connector
        for callback in callbacks:
            if isinstance(callback, WaitingCheckpoints):
                return callback
        callbacks.append(waiting := cls())
        waiting.intercept(trainer)
        return waiting

    def intercept(self, trainer: Trainer) -> None:
        """Have a Trainer bring its requests here; a second time changes nothing."""
        self._requests, self._followers, self._broken_off = {}, [], False
        if "save_checkpoint" not in vars(trainer):
            # there is no hook between a request and the collection of the state: Trainer.save_checkpoint does both
            trainer.save_checkpoint = partial(self._save, trainer, trainer.save_checkpoint)  # type: ignore[method-assign]
            trainer.strategy.remove_checkpoint = partial(self._follow, trainer.strategy.remove_checkpoint)  # type: ignore[method-assign]
        for callback in trainer.checkpoint_callbacks:
            if is_a(callback, ModelCheckpoint):  # of the class, as another Trainer may have had it before
                link = type(callback)._link_checkpoint
                callback._link_checkpoint = partial(self._follow, link)  # type: ignore[method-assign]

    def inside_window(self, trainer: Trainer) -> bool:
        """Return whether a batch is being worked on, or gradients wait for the optimizer step of their window."""
        loop = trainer.fit_loop.epoch_loop
        progress = loop.batch_progress.current
        if progress.ready != progress.processed:  # type: ignore[attr-defined]  # of the batches' tracker
            return True
        if trainer.lightning_module.automatic_optimization:
            # the very question Lightning asks before it runs the optimizer; there is no public form of it
            return loop._should_accumulate()
        return self.holds_gradient is not None and self.holds_gradient()

    def must_wait(self, trainer: Trainer) -> bool:
        """Return whether this is no moment to collect the state."""
        return self.inside_window(trainer)

    def write(self) -> None:
        """Write what waits, then remove or link what was to follow it."""
        requests, self._requests = self._requests, {}
        followers, self._followers = self._followers, []
        for action in (*requests.values(), *followers):
            action()

    def refuse(self, trainer: Trainer) -> None:
        """Write nothing of what waits, and say so."""
        for path in self._requests:
            rank_zero_warn(
                f"Checkpoint `{path}` is not written: training stopped at step {trainer.global_step} inside a window, "
                f"or before all that follows a step was done, and no checkpoint holds half of that. Go on from an "
                f"earlier one; `Trainer.save_checkpoint(path, weights_only=True)` keeps the weights alone."
            )
        self._requests, self._followers = {}, []

    # ------------------------------------------------------------ what a Trainer is asked for
    def _save(
        self,
        trainer: Trainer,
        save: Callable[..., None],
        filepath: Any,
        weights_only: bool | None = None,
        storage_options: Any = None,
    ) -> None:
        request = partial(save, filepath, weights_only, storage_options)
        if weights_only or not self.must_wait(trainer):
            request()
            return
        self._requests[str(filepath)] = request
        if self._broken_off:
            self.refuse(trainer)

    def _follow(self, act: Callable[..., None], *args: Any) -> None:
        if self._requests:  # what takes its place, or it leads to, is not there yet
            self._followers.append(partial(act, *args))
        elif not self._broken_off:
            act(*args)

    # ------------------------------------------------------------ hooks
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._requests, self._followers, self._broken_off = {}, [], False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        if not self.must_wait(trainer):
            self.write()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._end(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        if trainer.training or trainer.validating:
            self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        self._broken_off = self.must_wait(trainer)
        if self._broken_off:
            self.refuse(trainer)
        else:
            self.write()
