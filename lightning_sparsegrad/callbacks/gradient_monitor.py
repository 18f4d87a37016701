"""The record of the gradient of each component over a fit: norms, clips, shares kept, thresholds."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sparsegrad.callbacks._history import HistoryCallback
from lightning_sparsegrad.callbacks.gradient_transform import GradientTransformCallback
from lightning_sparsegrad.components import ComponentSpec
from lightning_sparsegrad.engine.gradient_engine import GradientEngine
from lightning_sparsegrad.engine.gradient_meter import GradientMeter, Measurement, check_meter
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.loops._callbacks import callbacks_of
from lightning_sparsegrad.modules.base import SparseGradModule

_COLUMNS = ("norm_before", "norm_after", "clipped", "kept", "threshold")


class GradientMonitor(HistoryCallback):
    """Record every few optimizer steps what the strategy does to the gradient of each component.

    The file has a row per component and recorded step, with the columns `step` (optimizer steps done before), `epoch`,
    `component`, `layer`, `norm_before` and `norm_after` (before and after the strategy, in true gradient units),
    `clipped` (whether a clip scaled it, or the share of its units that a clip of units scaled), `kept` (the share of
    its nonzero entries that stay nonzero) and `threshold` (the smallest threshold of a clip of norms that it belongs
    to, infinite while the clip scales nothing, undefined without one). A component that was dropped whole is not
    `clipped` and has 0 `kept`; its `norm_before` is undefined if it was not computed. A component without a gradient,
    because it is frozen, has undefined `norm_before` and `kept`. `clipped` is undefined with a strategy that does not
    state its `factors`, such as `ValueClip`. Nothing is read on the host until an epoch or the fit ends or a checkpoint
    is saved. A resumed fit writes its own file, which includes the rows of the earlier steps.

    Loggers get the totals of the last measurement with the other metrics of a step: `monitor/norm_before` and
    `monitor/norm_after` of all components together, and the means `monitor/clipped` and `monitor/kept` over the
    components with a gradient, and the mean `monitor/threshold` over those that have a finite one.

    It needs the engine of a `SparseGradModule` or a `GradientTransformCallback`; use `Identity()` to record plain
    training.

    Args:
        every_n_steps: Number of optimizer steps between measurements.
        components: What a component is, see `ComponentNormClip`.
        path: The file, `.parquet` or `.csv`; by default `gradients.parquet` in the folder of the run, see
            `ResultsTable`. No file is overwritten: if the name is taken, it gets a number.

    Raises:
        ConfigurationError: If `every_n_steps` is not positive or the file has another suffix; at the start of a fit, if
            there is no strategy of this library or another monitor.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> monitor = GradientMonitor(every_n_steps=10, path="gradients.csv")
        >>> trainer = Trainer(accelerator="cpu", callbacks=[monitor], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self, every_n_steps: int = 20, *, components: ComponentSpec = "projection", path: str | None = None
    ) -> None:
        super().__init__("gradients", _COLUMNS, path)
        check_meter(every_n_steps, components, parameter="every_n_steps")
        self._every, self._components = every_n_steps, components
        self._meter: GradientMeter | None = None
        self._seen: Measurement | None = None

    def names_logged(self) -> dict[str, bool | None]:
        """Return the names of the logged metrics; for none of them is higher or lower better."""
        return dict.fromkeys(f"monitor/{name}" for name in _COLUMNS)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        engine = _engine(trainer, pl_module)
        if engine.meter is not None:
            raise ConfigurationError(
                "Parameter `callbacks` of the Trainer should hold one `GradientMonitor`. Found another, or an engine "
                "with a meter."
            )
        self._meter = GradientMeter(engine.parameters, engine.transform, every=self._every, components=self._components)
        engine.meter, self._seen = self._meter, None
        self._history.start(trainer, engine.parameters, self._meter.components)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        last = self._take(trainer)
        if last is None:
            return
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by the logger connector
        if every and (trainer.global_step + 1) % every == 0:
            pl_module.log_dict({f"monitor/{name}": value for name, value in _totals(last.values).items()})

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._take(trainer)  # for a window whose last loss was None, which the module closes after the hook above

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._seen is None and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by its connector
            rank_zero_warn(
                f"`GradientMonitor` recorded no step. Found `every_n_steps = {self._every}` in a fit that ended with "
                f"step {trainer.global_step}."
            )
        super().on_train_end(trainer, pl_module)

    def _take(self, trainer: Trainer) -> Measurement | None:
        """Add the last measurement to the table, once, and return it."""
        last = self._meter.last if self._meter else None
        if last is not None and last is not self._seen:
            self._history.add(last.step, trainer.current_epoch, last.values)
            self._seen = last
        return last


def _totals(values: Tensor) -> dict[str, Tensor]:
    before, after, clipped, kept, thresholds = values
    unknown = before.isnan() & ~after.isnan()  # not computed; a gradient that is NaN would be NaN after as well
    norms = {
        name: torch.linalg.vector_norm(norm)
        for name, norm in zip(_COLUMNS, (before.masked_fill(unknown, 0.0), after), strict=False)
    }
    return {
        **norms,
        "clipped": clipped.sum() / kept.isfinite().sum(),
        "kept": kept.nanmean(),
        "threshold": thresholds.where(thresholds.isfinite(), torch.nan).nanmean(),
    }


def _engine(trainer: Trainer, module: LightningModule) -> GradientEngine:
    if isinstance(module, SparseGradModule):
        return module.gradient_engine
    for callback in callbacks_of(trainer):
        if isinstance(callback, GradientTransformCallback):
            return callback.gradient_engine
    raise ConfigurationError(
        f"GradientMonitor should be used with a `SparseGradModule` or beside a `GradientTransformCallback`, of "
        f"`Identity()` to watch plain training. Found neither with `{type(module).__name__}`."
    )
