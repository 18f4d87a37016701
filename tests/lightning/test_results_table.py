"""The results table of `validate` and `test`: printed and written from the logged metrics."""

import csv
import math
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import rich
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_sparsegrad import ResultsTable, SparseGradCLI
from lightning_sparsegrad.metrics._evaluation_table import evaluation_table
from tests.cases import cases
from tests.command_line import QUICK, UNLABELLED, Plain

LANGUAGES = [f"{first}{second}" for first in "abcdefghijk" for second in "abcdefghij"]
# as a module logs them: every language's metrics before those of the next
LOGGED = {
    f"{metric}/{part}": math.sqrt(i + j / 7) / 11
    for i, part in enumerate(LANGUAGES)
    for j, metric in enumerate(["accuracy", "f1"])
}
LOGGED |= {f"{metric}/{mean}": 1 / 3 for metric in ("accuracy", "f1") for mean in ("mean_unseen", "mean")}
Table = dict[str, dict[str, str]]


@pytest.fixture(autouse=True)
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    rich.reconfigure(width=80)
    yield
    rich.reconfigure()


class Logging(Plain):
    """Logs `values` at the end of every evaluation, under the prefix of its stage."""

    def __init__(self, values: dict[str, float] = LOGGED) -> None:
        super().__init__()
        self.values = values

    def test_step(self, batch: Tensor) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.values.items()})

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.values.items()})


class PerLoader(Logging):
    """Logs in its steps, and leaves it to Lightning to name the loaders."""

    def validation_step(self, batch: Tensor, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        self.log("val/loss", batch.sum() * batch_idx, on_step=True, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        self.log("other", 0.25)


def loader() -> DataLoader[Tensor]:
    return DataLoader(torch.ones(2, 2))  # type: ignore[arg-type]


def trainer(*callbacks: ResultsTable, **arguments: object) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **{**quiet, **arguments})  # type: ignore[arg-type]


def table_of(lines: list[list[str]]) -> Table:
    """Return what stands in a table, by row and column, without empty cells."""
    (_, *columns), *rows = lines
    return {name: {column: cell for column, cell in zip(columns, cells, strict=True) if cell} for name, *cells in rows}


def read_csv(path: str) -> list[list[str]]:
    with Path(path).open(newline="") as file:
        return list(csv.reader(file))


def read_markdown(path: str) -> list[list[str]]:
    lines = Path(path).read_text().splitlines()
    assert len({len(line) for line in lines}) == 1  # aligned
    heading, rule, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    assert all(re.fullmatch("-{3,}" if i == 0 else "-{2,}:", cell) for i, cell in enumerate(rule))
    return [heading, *rows]


def printed(output: str) -> list[list[list[str]]]:
    """Return the cells of each block of columns."""
    blocks: list[list[list[str]]] = []
    for line in output.splitlines():
        if line.startswith("┃"):
            blocks.append([])
        if line.startswith(("┃", "│")):
            blocks[-1].append([cell.strip() for cell in re.split("[┃│]", line)[1:-1]])
    return blocks


def short(values: dict[str, float]) -> Table:
    table: Table = {}
    for name, value in values.items():
        metric, _, part = name.partition("/")
        table.setdefault(metric, {})[part or "all"] = f"{value:.4g}"
    return table


# ------------------------------------------------------------ what is printed and written
@pytest.mark.parametrize(("stage", "prefix"), [("validate", "val/"), ("test", "test/")])
def test_a_hundred_and_ten_languages(stage: str, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(ResultsTable("results"))
    getattr(run, stage)(Logging(), loader(), verbose=False)
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    blocks = printed(output)
    assert {block[0][0] for block in blocks} == {stage}
    assert [column for block in blocks for column in block[0][1:]] == [*LANGUAGES, "mean", "mean_unseen"]
    together: Table = {}
    for block in blocks:
        for metric, cells in table_of(block).items():
            together.setdefault(metric, {}).update(cells)
    assert together == short(LOGGED)
    assert output.splitlines()[-1] == f"Written to results/{stage}.csv and results/{stage}.md"
    assert sorted(path.name for path in Path("results").iterdir()) == [f"{stage}.csv", f"{stage}.md"]

    lines = read_csv(f"results/{stage}.csv")
    assert lines[0] == ["metric", *LANGUAGES, "mean", "mean_unseen"]
    values = {f"{metric}/{part}": float(cell) for metric, row in table_of(lines).items() for part, cell in row.items()}
    assert values == {name: torch.tensor(value).item() for name, value in LOGGED.items()}
    assert values == {name.removeprefix(prefix): value.item() for name, value in run.callback_metrics.items()}
    lines = read_markdown(f"results/{stage}.md")
    assert lines[0] == ["metric", *LANGUAGES, "mean", "mean_unseen"]
    assert table_of(lines) == short(LOGGED)


@pytest.mark.parametrize(
    ("values", "columns"),
    [
        ({"accuracy": 0.5, "f1": 0.25}, ["all"]),
        ({"f1/de": 0.5, "f1/mean": 0.5, "loss": 2.0}, ["all", "de", "mean"]),
        (
            {"f1/mean_unseen": 0.5, "f1/mean": 0.5, "loss/de": math.nan, "f1/en": 0.75},
            ["de", "en", "mean", "mean_unseen"],
        ),
        ({"f1/[bold]": 0.5, "f1/:de:": 0.25}, ["[bold]", ":de:"]),
    ],
    ids=["no parts", "a mix", "gaps", "no markup"],
)
def test_columns(values: dict[str, float], columns: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    trainer(ResultsTable(".")).test(Logging(values), loader(), verbose=False)
    (block,) = printed(capsys.readouterr().out)
    assert block[0] == ["test", *columns]
    for table in (block, read_markdown("test.md")):
        assert table[0][1:] == columns
        assert table_of(table) == short(values)
    assert read_csv("test.csv")[0] == ["metric", *columns]


def test_the_loaders_of_lightning_are_parts_and_other_names_are_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(ResultsTable(".")).validate(PerLoader(), [loader(), loader()], verbose=False)
    output = capsys.readouterr().out
    parts = {"dataloader_idx_0": "1.0", "dataloader_idx_1": "1.0"}  # sums of 0 and 2
    assert table_of(read_csv("validate.csv")) == {"loss": parts, "loss_epoch": parts}
    assert "Not under `val/`: other 0.25\n" in output


def test_files_of_an_earlier_run_stay_and_new_ones_are_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("deep" * 20, "down")
    for values, name in (({"f1/de": 0.5, "f1/en": 0.25}, "test"), ({"f1/de": 0.75}, "test-v1")):
        trainer(ResultsTable(str(folder))).test(Logging(values), loader(), verbose=False)
        assert capsys.readouterr().out.splitlines()[-1] == f"Written to {folder}/{name}.csv and {folder}/{name}.md"
    assert (folder / "test.csv").read_text() == "metric,de,en\nf1,0.5,0.25\n"
    assert (folder / "test-v1.csv").read_text() == "metric,de\nf1,0.75\n"
    assert (folder / "test-v1.md").read_text() == "| metric |   de |\n| ------ | ---: |\n| f1     | 0.75 |\n"
    assert len(list(folder.iterdir())) == 4


@cases("taken", ["test.csv", "test.md"])
def test_a_file_of_the_user_stays_and_both_tables_have_one_name(taken: str, tmp_path: Path) -> None:
    (tmp_path / taken).write_text("mine")
    trainer(ResultsTable(str(tmp_path))).test(Logging({"f1/de": 0.5}), loader(), verbose=False)
    assert (tmp_path / taken).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {taken, "test-v1.csv", "test-v1.md"}


def test_a_table_that_cannot_be_written_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    with pytest.raises(FileExistsError):
        trainer(ResultsTable("file")).test(Logging({"f1/de": 0.5}), loader(), verbose=False)
    (block,) = printed(capsys.readouterr().out)
    assert table_of(block) == {"f1": {"de": "0.5"}}


@pytest.mark.parametrize("logs", [True, False])
def test_by_default_the_files_are_beside_the_logs(logs: bool) -> None:
    run = trainer(ResultsTable(), logger=CSVLogger("logs") if logs else False, default_root_dir="root")
    run.test(Logging({"f1/de": 0.5}), loader(), verbose=False)
    folder = Path("logs" if logs else "root", "lightning_logs/version_0")
    assert {path.name for path in folder.glob("test.*")} == {"test.csv", "test.md"}


def test_a_progress_bar_does_not_run_into_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(ResultsTable(), TQDMProgressBar(), enable_progress_bar=True)  # type: ignore[arg-type]
    run.test(Logging({"f1/de": 0.5}), loader(), verbose=False)
    lines = re.split("[\r\n]", capsys.readouterr().out)
    assert any(line.startswith("Testing") for line in lines)
    assert any(re.fullmatch("┏━+┳━+┓", line) for line in lines)


# ------------------------------------------------------------ when there is none
def test_validations_within_a_fit_print_and_write_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(ResultsTable(), max_epochs=2, num_sanity_val_steps=1)
    run.fit(Logging(), loader(), loader())
    assert run.callback_metrics["val/accuracy/mean"] == pytest.approx(1 / 3)
    assert capsys.readouterr().out == ""
    assert not list(Path().iterdir())


def test_a_stage_that_logs_nothing_prints_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(ResultsTable()).validate(Logging({}), loader(), verbose=False)
    assert capsys.readouterr().out == ""
    assert not list(Path().iterdir())


def test_a_trial_run_leaves_the_files_of_an_earlier_one(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(ResultsTable(), fast_dev_run=True).test(Logging(), loader(), verbose=False)
    assert printed(capsys.readouterr().out)
    assert not list(Path().iterdir())


class SecondRank(SingleDeviceStrategy):
    @property
    def is_global_zero(self) -> bool:
        return False


def test_other_ranks_print_and_write_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(ResultsTable(), strategy=SecondRank(torch.device("cpu"))).test(Logging(), loader(), verbose=False)
    assert capsys.readouterr().out == ""
    assert not list(Path().iterdir())


# ------------------------------------------------------------ the table by itself
@cases("width", [24, 40, 75, 79, 80, 200, 2000])
def test_blocks_fill_the_width_and_the_means_are_not_parted(width: int) -> None:
    console = Console(file=StringIO(), width=width)
    evaluation_table({f"val/{name}": value for name, value in LOGGED.items()}, prefix="val/").show(
        console, heading="val"
    )
    output = console.file.getvalue()  # type: ignore[attr-defined]
    lines = output.splitlines()
    blocks = printed(output)
    tops = [len(line) for line in lines if line.startswith("┏")]
    assert max(map(len, lines)) <= width
    assert all(top > width - len("│ 0.1234 ") for top in tops[:-2])  # one more would not have fitted
    if width >= 40:  # narrower, rich folds the means
        assert [column for block in blocks for column in block[0][1:]] == [*LANGUAGES, "mean", "mean_unseen"]
        assert blocks[-1][0][-2:] == ["mean", "mean_unseen"]


def test_a_part_that_is_called_all_is_not_taken_for_the_whole() -> None:
    results = evaluation_table({"test/f1": 0.5, "test/f1/all": 0.25, "val/f1": 1.0}, prefix="test/")
    assert results.to_csv() == "metric,without part,all\nf1,0.5,0.25\n"


def test_names_of_any_letters_are_quoted_and_aligned() -> None:
    results = evaluation_table({"val/a|b,c/中文": 0.5, 'val/a|b,c/"x"': 0.25}, prefix="val/")
    assert list(csv.reader(StringIO(results.to_csv()))) == [["metric", "中文", '"x"'], ["a|b,c", "0.5", "0.25"]]
    assert results.to_markdown() == (
        '| metric | 中文 |  "x" |\n'
        "| ------ | ---: | ---: |\n"
        r"| a\|b,c |  0.5 | 0.25 |" "\n"
    )  # fmt: skip


# ------------------------------------------------------------ the command line
MODEL = f"--model={__name__}.Logging"
FEW = '--model.values={"f1/de": 0.5}'


def tables(run: Trainer) -> list[ResultsTable]:
    return [callback for callback in run.callbacks if isinstance(callback, ResultsTable)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_the_command_line_shows_the_table_alone(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli = SparseGradCLI(args=[stage, MODEL, FEW, UNLABELLED, *QUICK])
    output = capsys.readouterr().out
    assert len(tables(cli.trainer)) == 1
    assert {block[0][0] for block in printed(output)} == {stage}
    assert f"{stage} metric".casefold() not in output.casefold()
    assert table_of(read_markdown(f"lightning_logs/version_0/{stage}.md")) == {"f1": {"de": "0.5"}}


def test_lightnings_own_table_may_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    SparseGradCLI(args=["test", MODEL, FEW, UNLABELLED, *QUICK, "--verbose=true"])
    assert "test metric" in capsys.readouterr().out.casefold()


def test_a_table_of_the_user_takes_the_place_of_the_default() -> None:
    given = ["--trainer.callbacks=ResultsTable", "--trainer.callbacks.folder=mine"]
    cli = SparseGradCLI(args=["test", MODEL, FEW, UNLABELLED, *QUICK, *given])
    assert [table.folder for table in tables(cli.trainer)] == ["mine"]
    assert not Path("test.csv").exists()
    assert table_of(read_markdown("mine/test.md")) == {"f1": {"de": "0.5"}}


@pytest.mark.parametrize("parts", [True, False])
def test_a_fit_ends_with_the_means_and_then_the_parts(parts: bool, capsys: pytest.CaptureFixture[str]) -> None:
    values = LOGGED if parts else {"accuracy": 0.5, "f1/mean": 0.25}
    SparseGradCLI(Logging, args=["fit", f"--model.values={values}".replace("'", '"'), UNLABELLED, *QUICK])
    output = capsys.readouterr().out
    first, *rest = printed(output)
    names = [name for name, _ in first[1:]]
    expected = ["accuracy/mean_unseen", "f1/mean_unseen", "accuracy/mean", "f1/mean"] if parts else list(values)
    assert sorted(names) == sorted([*(f"val/{name}" for name in expected), "wall time"])
    assert [column for block in rest for column in block[0][1:]] == (
        [*LANGUAGES, "mean", "mean_unseen"] if parts else []
    )
    assert max(map(len, output.splitlines())) <= 80
    assert not Path("validate.csv").exists()
