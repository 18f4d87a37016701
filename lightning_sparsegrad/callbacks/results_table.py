"""The table at the end of `validate` and `test`."""

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Callback, LightningModule, Trainer
from rich import get_console

from lightning_sparsegrad.results import results_of

_PREFIXES = {"validate": "val/", "test": "test/"}


class ResultsTable(Callback):
    """Print what `validate` or `test` logged as a table, and write it as CSV and markdown.

    One row per metric, one column per part of the data: a language, or another of several loaders. It takes the names
    `val/<metric>/<part>` (`test/` for a test), with `mean` and `mean_unseen` as the last columns; `val/<metric>`, of no
    part, stands under `all`. What has other names is printed in a line below. The print is broken into blocks of
    columns that fit the console; it and the markdown have four significant digits, the CSV has all.

    The files are `validate.csv` and `validate.md`, or `test.csv` and `test.md`. Those of an earlier run in the same
    folder are replaced, by whole ones. Validations within a fit print and write nothing, a `fast_dev_run` writes
    nothing.

    Args:
        folder: Where to write; by default the `log_dir` of the Trainer, or without one its `default_root_dir`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> table = ResultsTable(folder="results")
        >>> trainer = Trainer(accelerator="cpu", callbacks=[table], logger=False, enable_checkpointing=False)
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__()
        self.folder = folder

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Print and write; here, because progress bars end with the evaluation itself."""
        for name, prefix in _PREFIXES.items():
            if stage == name:
                self._report(trainer, name, prefix)

    def _report(self, trainer: Trainer, name: str, prefix: str) -> None:
        metrics = trainer.callback_metrics
        folder = self.folder or trainer.log_dir or trainer.default_root_dir  # on every rank: they agree on `log_dir`
        if not trainer.is_global_zero:
            return
        console = get_console()  # that of the rich progress bar, which so makes way
        if (results := results_of(metrics, prefix=prefix)).rows:
            results.show(console, heading=name)
        if others := [f"{other} {value:.4g}" for other, value in metrics.items() if not other.startswith(prefix)]:
            console.print(f"Not under `{prefix}`: {', '.join(others)}", markup=False, emoji=False, highlight=False)
        if results.rows and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by its connector
            paths = [
                _write(folder, f"{name}.csv", results.to_csv()),
                _write(folder, f"{name}.md", results.to_markdown()),
            ]
            # one line however long, to be copied
            console.print(
                f"Written to {' and '.join(paths)}", markup=False, emoji=False, highlight=False, soft_wrap=True
            )


def _write(folder: str, name: str, text: str) -> str:
    """Write a text beside its place, and move it there when it is whole; return its path."""
    files = get_filesystem(folder)
    files.makedirs(folder, exist_ok=True)
    part, path = f"{folder}/.{name}.part", f"{folder}/{name}"
    with files.open(part, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    files.mv(part, path)
    return path
