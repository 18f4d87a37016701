"""A growing table of measurements that a fit writes from time to time."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_sparsegrad.callbacks._run_folder import run_folder, write_new
from lightning_sparsegrad.components import Component, NamedParameters, find_layers
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.files._unfinished import sweep
from lightning_sparsegrad.files._writing import replacing

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".parquet", ".csv")
_KEY = "lightning_sparsegrad_histories"  # in checkpoints: paths of the tables, by name


class History:
    """A table with one row per step and component: step, epoch, component, its layer, and its measurements.

    Added values stay on their device until they are written. Rank 0 writes, into a new file; if its name is taken, it
    gets a number. Later writes replace that file atomically.

    Args:
        name: Name of the file without its suffix, unless `path` is given.
        columns: Names of the measurements.
        path: The file, `.parquet` or `.csv`; by default `<name>.parquet` in the folder of the run.

    Attributes:
        path: The file, on rank 0 with its number once written; `None` before a fit unless it was given.
        earlier: The file of the run that a fit resumes, if its checkpoint says so.

    Raises:
        ConfigurationError: If the file is of another kind.
    """

    def __init__(self, name: str, columns: Sequence[str], path: str | None) -> None:
        import pandas as pd

        if path is not None and Path(path).suffix not in SUFFIXES:
            raise ConfigurationError(
                f"Parameter `path` should end with {' or '.join(SUFFIXES)}. Found `path = {path!r}`."
            )
        self._name, self._columns, self._given = name, tuple(columns), path
        self.path: Path | None = Path(path) if path else None
        self.earlier: str | None = None
        self._is_mine = False  # whether this object wrote the file at `path`
        self._components: list[str] = []
        self._layers: list[str] = []
        self._rows = pd.DataFrame()
        self._new: list[tuple[int, int, Tensor]] = []

    def start(self, trainer: Trainer, parameters: NamedParameters, components: Sequence[Component]) -> None:
        """Start with an empty table or, in a resumed fit, with the rows of the earlier steps."""
        import pandas as pd

        self._new, self._rows = [], pd.DataFrame()
        self._components, self._layers = [component.name for component in components], layers_of(parameters, components)
        known = self.path if self._is_mine else Path(self.earlier or self._given or "")
        self._is_mine = self._is_mine and trainer.global_step > 0
        if not self._is_mine:
            is_trial = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by its connector; it writes nothing
            folder = "" if self._given or is_trial else run_folder(trainer)  # on every rank, since all agree on it
            self.path = Path(self._given or Path(folder, f"{self._name}.parquet"))
        if trainer.is_global_zero and trainer.global_step and known and known.suffix in SUFFIXES and known.is_file():
            sweep(known.parent)
            rows = read_history(known)
            self._rows = rows[rows["step"] < trainer.global_step]

    def add(self, step: int, epoch: int, values: Tensor) -> None:
        """Add measurements, without reading them on the host.

        Args:
            step: Optimizer steps done.
            epoch: Epochs done.
            values: Tensor of shape (columns, components).
        """
        self._new.append((step, epoch, values))

    def write(self, trainer: Trainer) -> None:
        """Read all values added since the last call at once, and write the table if there are any."""
        import pandas as pd

        if not self._new or self.path is None:
            return
        new, self._new = self._new, []
        if not trainer.is_global_zero:
            return
        values = torch.stack([values for _, _, values in new]).cpu()  # (times, columns, components)
        count = len(self._components)
        rows = pd.DataFrame(
            {
                "step": [step for step, _, _ in new for _ in range(count)],
                "epoch": [epoch for _, epoch, _ in new for _ in range(count)],
                "component": self._components * len(new),
                "layer": self._layers * len(new),
                **{name: values[:, index].flatten().numpy() for index, name in enumerate(self._columns)},
            }
        )
        self._rows = pd.concat([self._rows, rows], ignore_index=True) if len(self._rows) else rows
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by its connector
            self._write(self.path)

    def _write(self, path: Path) -> None:
        buffer = BytesIO()
        to_buffer: Any = self._rows.to_parquet if path.suffix == ".parquet" else self._rows.to_csv
        to_buffer(buffer, index=False)
        if self._is_mine:
            with replacing(path) as file:
                file.write(buffer.getbuffer())
        else:
            stem = write_new(path.with_suffix(""), {path.suffix: buffer.getvalue()})
            self.path, self._is_mine = Path(stem + path.suffix), True


class HistoryCallback(Callback):
    """A callback with a `History`, which it writes when an epoch or the fit ends, and when a checkpoint is saved.

    Args:
        name: As in `History`, like the others.
        columns: Names of the measurements.
        path: The file.
    """

    def __init__(self, name: str, columns: Sequence[str], path: str | None) -> None:
        super().__init__()
        self._name = name
        self._history = History(name, columns, path)

    @property
    def path(self) -> Path | None:
        """The file; `None` before a fit."""
        return self._history.path

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._history.write(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._history.write(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._history.write(trainer)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._history.write(trainer)
        if self.path is not None:
            checkpoint.setdefault(_KEY, {})[self._name] = str(self.path.absolute())

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._history.earlier = (checkpoint.get(_KEY) or {}).get(self._name)


def layers_of(parameters: NamedParameters, components: Sequence[Component]) -> list[str]:
    """Return the name of the layer that each component begins in; empty if the model's layers cannot be found."""
    try:
        layers = find_layers(parameters)
    except ConfigurationError:
        return [""] * len(components)
    return [layers.names[layers.top_depth(component.parts[0].parameter)] for component in components]


def read_history(path: str | Path) -> "pd.DataFrame":
    """Return the table that a `GradientMonitor` or a `PretrainedDistance` wrote."""
    import pandas as pd

    if Path(path).suffix == ".parquet":
        return pd.read_parquet(path)
    numbers = pd.read_csv(path, nrows=0).columns.difference(["component", "layer"])
    return pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys(numbers, ""))  # a name may be empty
