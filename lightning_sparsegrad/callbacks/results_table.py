"""The results table of `validate` and `test`."""

from lightning.pytorch import Callback, LightningModule, Trainer
from rich import get_console
from typing_extensions import override

from lightning_sparsegrad.callbacks._run_folder import run_folder, write_new
from lightning_sparsegrad.metrics._evaluation_table import evaluation_table
from lightning_sparsegrad.untrusted._terminal import shown

_PREFIXES = {"validate": "val/", "test": "test/"}


class ResultsTable(Callback):
    """Print the metrics of `validate` or `test` as a table, and write it as CSV and markdown.

    One row per metric, one column per part of the data: a language, or one of several loaders. It reads metrics named
    `val/<metric>/<part>` (`test/` for a test), with `mean` and `mean_unseen` as the last columns; `val/<metric>`,
    without a part, is in the column `all`. Metrics with other names are printed in a line below. The printed table is
    split into blocks of columns that fit the console; it and the markdown have four significant digits, the CSV has
    all.

    The files are `validate.csv` and `validate.md`, or `test.csv` and `test.md`. No file is overwritten: if one of them
    exists, they are `test-v1.csv` and `test-v1.md`, and so on. Validations within a fit print and write nothing; a
    `fast_dev_run` writes nothing.

    Args:
        folder: The output folder; by default the folder of the run: that of its logger, or a new
            `lightning_logs/version_<n>` if the logger has none of its own or there is no logger.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> table = ResultsTable(folder="results")
        >>> trainer = Trainer(accelerator="cpu", callbacks=[table], logger=False, enable_checkpointing=False)
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__()
        self.folder = folder

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print and write the table, once progress bars have ended with the evaluation."""
        for name, prefix in _PREFIXES.items():
            if stage == name:
                self._report(trainer, name, prefix)

    def _report(self, trainer: Trainer, name: str, prefix: str) -> None:
        metrics = trainer.callback_metrics
        results = evaluation_table(metrics, prefix=prefix)
        writes = bool(results.rows) and not trainer.fast_dev_run  # type: ignore[attr-defined]  # set by its connector
        folder = (self.folder or run_folder(trainer)) if writes else None  # on every rank, since all agree on it
        if not trainer.is_global_zero:
            return
        console = get_console()  # the console of the rich progress bar, so that they do not collide
        if results.rows:
            results.show(console, heading=name)
        if others := [f"{other} {value:.4g}" for other, value in metrics.items() if not other.startswith(prefix)]:
            console.print(
                shown(f"Not under `{prefix}`: {', '.join(others)}"), markup=False, emoji=False, highlight=False
            )
        if folder is not None:
            texts = {".csv": results.to_csv().encode(), ".md": results.to_markdown().encode()}
            stem = write_new(f"{folder}/{name}", texts)
            paths = " and ".join(stem + end for end in texts)
            # one line of any length, so that it can be copied
            console.print(shown(f"Written to {paths}"), markup=False, emoji=False, highlight=False, soft_wrap=True)
