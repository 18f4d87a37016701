"""Progress lines in the log of a run without a terminal: steps done, metrics, remaining time."""

from collections.abc import Mapping
from math import ceil, inf, isfinite
from time import monotonic
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, Timer, TQDMProgressBar
from torch import Tensor
from typing_extensions import override

from lightning_sparsegrad.callbacks._lines import Pace, check_seconds, is_terminal, of_total, time_left, write_line
from lightning_sparsegrad.loops._callbacks import callbacks_of
from lightning_sparsegrad.loops._divergence import is_of_validation
from lightning_sparsegrad.loops._lightning_adapter import steps_of
from lightning_sparsegrad.metrics._evaluation_table import is_part, metric_and_part

_METRICS = 4  # that fit into a line


class ProgressLines(Callback):
    """Write a progress line to stderr from time to time, where no terminal shows the Trainer's progress bar.

    This is the case under nohup, SLURM or CI, and wherever else stdout or stderr is not a terminal. A fit writes ::

        step 120/1000 (12%), epoch 1/3, loss 0.532, val/loss 0.48, 0:03:10 left
        step 333/1000 (33%), epoch 1/3, validation batch 30/200 (15%), loss 0.498, val/loss 0.48, 0:02:22 left

    with the optimizer steps, the loss of the last batch on this process, and up to four metrics of the last validation
    of this fit. A validation, test or prediction outside a fit writes `test batch 30/200 (15%), 0:00:40 left`. Unknown
    values are omitted: totals of data without a length or of a fit without an end, the steps of several optimizers
    under manual optimization. Process 0 writes, and reads numbers on the host only for a line.

    The remaining time is extrapolated from the pace of the last five lines, without the first step of this process, and
    includes each future validation at the mean duration so far; a `max_time` bounds it. A fit may end earlier, by early
    stopping.

    Lightning's progress bars are turned off where stdout is not a terminal, since they would write control characters
    there; a user's own progress bars are not. Lines are also written with `enable_progress_bar=False`. The command line
    has this callback by default; `--trainer.callbacks+=ProgressLines --trainer.callbacks.interval=.inf` writes none.

    Args:
        interval: Minimum seconds between lines, positive. A line is written at the end of a batch.
        first: Minimum seconds from the start of the run to the first line, positive, at most `interval`. A shorter run
            writes none.

    Raises:
        ConfigurationError: If a number is not positive.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> lines = ProgressLines(interval=300)
        >>> trainer = Trainer(accelerator="cpu", callbacks=[lines], logger=False, enable_checkpointing=False)
    """

    def __init__(self, interval: float = 60.0, *, first: float = 10.0) -> None:
        super().__init__()
        check_seconds("interval", interval)
        check_seconds("first", first)
        self.interval, self.first = interval, first
        self._clock = monotonic
        self._writes = False
        self._due = inf
        self._start_fit(0)
        self._start_pass("", [])

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._writes = trainer.is_global_zero and isfinite(self.interval) and not is_terminal("stdout", "stderr")
        self._due = self._clock() + min(self.first, self.interval)
        _hide_bar(trainer)

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _hide_bar(trainer)

    # ------------------------------------------------------------ a fit
    def _start_fit(self, step: int) -> None:
        self._pace, self._step = Pace(), step
        self._stepped = 0.0  # seconds without those of validations, when the last step was done
        self._validated, self._validations = 0.0, 0  # seconds, and how many
        self._loss: Any = None
        self._metrics: dict[str, Tensor] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_fit(trainer.global_step)
        _hide_bar(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._writes:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self._loss = loss if isinstance(loss, Tensor) and loss.numel() == 1 else None
        now = self._clock()
        if trainer.global_step > self._step:
            self._step, self._stepped = trainer.global_step, now - self._validated
            if not self._pace.has_begun:  # the first step is slow: caches, compilation, workers
                self._pace.mark(self._step, self._stepped)
        if now >= self._due:
            self._write_of_fit(trainer, pl_module, now)

    def _write_of_fit(self, trainer: Trainer, module: LightningModule, now: float, *, evaluated: str = "") -> None:
        step, total = trainer.global_step, _total(trainer, module)
        epochs = trainer.max_epochs or -1
        epoch = f"epoch {trainer.current_epoch + 1}" + (f"/{epochs}" if epochs > trainer.current_epoch else "")
        loss = None
        if self._loss is not None:  # Lightning divides by the batches of a step
            scale = trainer.accumulate_grad_batches if module.automatic_optimization else 1
            loss = f"loss {float(self._loss) * scale:.4g}"
        metrics = [f"{name} {float(value):.4g}" for name, value in self._metrics.items()]
        left = self._steps_left(trainer, total, now, validates=bool(evaluated))
        remaining = [
            max(0.0, seconds)
            for callback in callbacks_of(trainer)
            if isinstance(callback, Timer) and (seconds := callback.time_remaining()) is not None
        ]
        left = min([*remaining, *([] if left is None else [left])], default=None)
        self._write(now, f"step {of_total(step, total)}", epoch, evaluated, loss, *metrics, time_left(left))
        if self._pace.has_begun:
            self._pace.mark(self._step, self._stepped)

    def _steps_left(self, trainer: Trainer, total: int | None, now: float, *, validates: bool) -> float | None:
        """Return the seconds that the remaining steps and validations take; `None` if unknown."""
        per_step = self._pace.seconds_each(self._step, self._stepped)
        if total is None or per_step is None or total < trainer.global_step:
            return None
        steps = total - trainer.global_step
        per_validation = self._validated / self._validations if self._validations else 0.0
        if not validates:
            begun = now - self._validated - self._stepped  # spent on the next step
            return max(0.0, steps * per_step - begun) + _validations_in(trainer, steps) * per_validation
        passed = now - self._begun
        expected = passed * self._batches / self._done if self._batches else per_validation
        return (
            steps * per_step
            + max(0.0, expected - passed)
            + _validations_in(trainer, steps) * (per_validation or expected)
        )

    # ------------------------------------------------------------ a pass over data without training
    def _start_pass(self, name: str, batches: list[int | float]) -> None:
        self._name, self._done, self._begun, self._of_pass = name, 0, self._clock(), Pace()
        total = sum(batches)
        self._batches = int(total) if isfinite(total) else 0

    def _passed(self, trainer: Trainer, module: LightningModule) -> None:
        """Count a batch of the pass."""
        self._done += 1
        now = self._clock()
        if not self._of_pass.has_begun:
            self._of_pass.mark(self._done, now)
        if not self._writes or now < self._due:
            return
        words = f"{self._name} batch {of_total(self._done, self._batches)}"
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write_of_fit(trainer, module, now, evaluated=words)
            return
        per_batch = self._of_pass.seconds_each(self._done, now)
        self._of_pass.mark(self._done, now)
        is_known = per_batch is not None and self._batches >= self._done
        self._write(now, words, time_left((self._batches - self._done) * (per_batch or 0.0)) if is_known else None)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_check = trainer.sanity_checking
        batches = trainer.num_sanity_val_batches if is_check else trainer.num_val_batches
        self._start_pass("sanity check" if is_check else "validation", batches)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated += self._clock() - self._begun
            self._validations += 1
            shown = {name: value for name, value in trainer.callback_metrics.items() if _is_shown(name)}
            self._metrics = dict(sorted(shown.items(), key=lambda item: "loss" not in item[0])[:_METRICS])

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_pass("test", trainer.num_test_batches)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_pass("prediction", trainer.num_predict_batches)

    @override
    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        self._passed(trainer, pl_module)

    @override
    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        self._passed(trainer, pl_module)

    @override
    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        self._passed(trainer, pl_module)

    def _write(self, now: float, *words: str | None) -> None:
        self._due = now + self.interval
        write_line(words)


def _hide_bar(trainer: Trainer) -> None:
    """Turn off Lightning's progress bar, which a search of its Tuner turns on again before a fit."""
    bar = trainer.progress_bar_callback
    if bar is not None and type(bar) in {RichProgressBar, TQDMProgressBar} and not is_terminal("stdout"):
        bar.disable()


def _total(trainer: Trainer, module: LightningModule) -> int | None:
    """Return the optimizer steps of the whole fit, if they are known."""
    if module.automatic_optimization:
        return steps_of(trainer)
    # several optimizers may step for each batch
    return trainer.max_steps if trainer.max_epochs == -1 and trainer.max_steps > 0 else None


def _validations_in(trainer: Trainer, steps: int) -> int:
    """Return the number of validations in the last steps of a fit; 0 if unknown."""
    per_epoch, every = trainer.num_training_batches, trainer.val_check_batch
    if not steps or not every or not isfinite(every) or not isfinite(per_epoch):
        return 0
    batches = steps * trainer.accumulate_grad_batches
    if trainer.check_val_every_n_epoch is None:
        return ceil(batches / every)
    if every < per_epoch:
        return ceil(batches / per_epoch * (per_epoch // every) / trainer.check_val_every_n_epoch)
    return ceil(batches / per_epoch / trainer.check_val_every_n_epoch)


def _is_shown(name: str) -> bool:
    _, part = metric_and_part(name, prefix="val/") or ("", "")
    return is_of_validation(name) and not is_part(part)
