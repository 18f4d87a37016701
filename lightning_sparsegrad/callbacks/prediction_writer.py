"""The callback that writes predictions into files."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_sparsegrad.callbacks._run_folder import run_folder, write_new
from lightning_sparsegrad.data import TokenizedDataModule
from lightning_sparsegrad.data._checks import require_file_names
from lightning_sparsegrad.data.samplers import is_filler
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.files._unfinished import new_folder
from lightning_sparsegrad.loops._twins import require_our_trainer
from lightning_sparsegrad.modules._evaluation import loaders_of, parts_of


class PredictionWriter(BasePredictionWriter):
    """Write the predictions of `predict` into one file per part of the data, in the order of its rows.

    The data module decides the format (`TokenizedDataModule.write_predictions`): a table of names, numbers, labels of
    words, or answers; for GLUE and XGLUE the format of these benchmarks.

    Args:
        folder: The output folder; by default `predictions` in the folder of the run, see `ResultsTable`. No file is
            overwritten: if one of the files exists, all go into `<folder>-v1`, and so on.

    Raises:
        ConfigurationError: At the start of `predict`, if the data do not come from a data module of this library, which
            knows what a prediction means, or if the name of a part cannot be a file name; if a `predict_step` returns
            no `predictions`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> writer = PredictionWriter(folder="submission")
        >>> trainer = Trainer(accelerator="cpu", callbacks=[writer], logger=False, enable_checkpointing=False)
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__("batch")
        self._folder = folder
        self._predictions: dict[int, list[tuple[int, Any]]] = defaultdict(list)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            require_our_trainer(trainer, type(self).__name__)
            _data(trainer)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_file_names(parts_of(trainer.predict_dataloaders))
        self._predictions.clear()

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Decode the predictions of a batch and keep them."""
        loader = loaders_of(trainer.predict_dataloaders)[dataloader_idx]
        if is_filler(loader, batch_idx):
            return
        if not isinstance(prediction, Mapping) or "predictions" not in prediction:
            raise ConfigurationError(
                f"PredictionWriter should be given a dict with `predictions` by the `predict_step` of "
                f"`{type(pl_module).__name__}`. Found `{type(prediction).__name__}`."
            )
        values = _data(trainer).decode(prediction, batch)
        collected = self._predictions[dataloader_idx]
        # without a sampler, Lightning knows no indices and passes those of another loader
        indices = batch_indices if isinstance(loader, DataLoader) and loader.batch_sampler is not None else None
        if indices is None and trainer.world_size > 1:
            raise ConfigurationError(
                f"PredictionWriter should be given the rows of a map-style dataset, by a DataLoader with a sampler, to "
                f"put what {trainer.world_size} processes predict in order. Found `{type(loader).__name__}`."
            )
        rows = range(len(collected), len(collected) + len(values)) if indices is None else indices
        collected += zip(rows, values, strict=True)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the predictions of all processes, and write the files."""
        gathered: list[Any] = [dict(self._predictions)]
        if trainer.world_size > 1:
            gathered *= trainer.world_size
            dist.all_gather_object(gathered, dict(self._predictions))
        folder = self._folder or f"{run_folder(trainer)}/predictions"  # on every process, since all agree on it
        if not trainer.is_global_zero:
            return
        folder = folder.rstrip("/")
        beside = Path(gettempdir() if "://" in folder else "", folder.rpartition("://")[2])
        with new_folder(beside) as made:
            for number, part in enumerate(parts_of(trainer.predict_dataloaders)):
                rows = dict(pair for by_loader in gathered for pair in by_loader.get(number, ()))
                _data(trainer).write_predictions(made, part or "", [rows[index] for index in sorted(rows)])
            paths = sorted(path for path in made.rglob("*") if path.is_file())
            contents = {f"/{path.relative_to(made).as_posix()}": path.read_bytes() for path in paths}
            folder = write_new(folder, contents)
        rank_zero_info(f"Predictions are in {folder}.")


def _data(trainer: Trainer) -> TokenizedDataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by its connector
    if not isinstance(data, TokenizedDataModule):
        raise ConfigurationError(
            f"PredictionWriter should be used with a data module of this library. Found `{type(data).__name__}`."
        )
    return data
