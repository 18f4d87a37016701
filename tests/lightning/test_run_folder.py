"""The folder of a run: its own, and no existing file is overwritten."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_sparsegrad import (
    Identity,
    PredictionWriter,
    SequenceClassification,
    SparseGradCLI,
    TextDataModule,
)
from lightning_sparsegrad.callbacks._run_folder import own_folder, run_folder, write_new
from lightning_sparsegrad.main import main
from tests import hub
from tests.command_line import QUICK, READER, UNLABELLED
from tests.data.helpers import write
from tests.lightning.tasks import some_long

MINE = {"config.yaml": "mine: keep me\n", "test.csv": "text,label\na,b\n", "test.md": "# mine\n"}
TABLE = "metric,all\n"


class Elsewhere(Logger):
    """As `WandbLogger`: files would be in the working directory by default."""

    def __init__(self, save_dir: str | None = ".", name: str | None = None, version: str | int | None = None) -> None:
        super().__init__()
        self._save_dir, self._name, self._version = save_dir, name, version

    @property
    def save_dir(self) -> str | None:
        return self._save_dir

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def version(self) -> str | int | None:
        return self._version

    def log_metrics(self, *_: Any, **__: Any) -> None:
        pass

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


class ByAbsolutePath(CSVLogger):
    def __init__(self) -> None:
        super().__init__(str(Path.cwd()), name="", version="")


LOGGERS = {
    "none": "false",
    "elsewhere": f"{__name__}.Elsewhere",
    "elsewhere, of no folder": f'{{"class_path": "{__name__}.Elsewhere", "init_args": {{"save_dir": null}}}}',
    "elsewhere, empty names": f'{{"class_path": "{__name__}.Elsewhere", "init_args": {{"name": "", "version": ""}}}}',
    "elsewhere, named": f'{{"class_path": "{__name__}.Elsewhere", "init_args": {{"name": "a", "version": "b"}}}}',
    "fixed": '{"class_path": "CSVLogger", "init_args": {"save_dir": "logs", "version": "fixed"}}',
    "here": '{"class_path": "CSVLogger", "init_args": {"save_dir": ".", "name": "", "version": ""}}',
    "here, by its path": f"{__name__}.ByAbsolutePath",
    "several": f'["{__name__}.Elsewhere", {{"class_path": "CSVLogger", "init_args": {{"save_dir": "."}}}}]',
    "above": '{"class_path": "CSVLogger", "init_args": {"save_dir": "..", "name": "", "version": ""}}',
}
ALIKE = ("elsewhere, of no folder", "elsewhere, empty names", "here, by its path", "above")


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def run_test(logger: str = "false") -> None:
    SparseGradCLI(args=["test", *ARGUMENTS, f"--trainer.logger={logger}"])


ARGUMENTS = [READER, "--model.num_labels=2", "--model.gradient_transform=Identity", UNLABELLED]
ARGUMENTS += [each for each in QUICK if "logger" not in each and "epochs" not in each]


@pytest.mark.filterwarnings("ignore:Experiment logs directory")  # with files that are no logs, which stay
@pytest.mark.parametrize("name", some_long(LOGGERS, ALIKE))
def test_nothing_of_the_user_or_of_an_earlier_run_is_written_over(name: str) -> None:
    for file, text in MINE.items():
        Path(file).write_text(text)
        Path("..", file).write_text(text)
    for run in (1, 2, 3) if name == "none" else (1, 2):
        run_test(LOGGERS[name])
        tables = [path for path in Path("..").rglob("test*.csv") if path.read_text().startswith(TABLE)]
        assert len(tables) == run
        assert len(list(Path("..").rglob("config*.yaml"))) == 2 + run
    for file, text in MINE.items():
        assert Path(file).read_text() == Path("..", file).read_text() == text
    new = {path.name for path in Path().iterdir() if path.is_file()} - MINE.keys()
    assert new <= {"metrics.csv"}  # of a logger that is told to write here


def test_config_and_table_of_a_run_lie_together() -> None:
    run_test()
    names = {path.name for path in Path("lightning_logs/version_0").iterdir()}
    assert names == {"config.yaml", "test.csv", "test.md"}


@pytest.mark.parametrize("name", ["metrics.csv", "hparams.yaml"])
@pytest.mark.parametrize(
    ("logger", "before", "after"),
    [("fixed", "logs/lightning_logs/fixed", "logs/lightning_logs/fixed-v1"), ("here", ".", "version_0")],
)
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")
def test_logs_that_were_there_are_not_deleted(name: str, logger: str, before: str, after: str) -> None:
    Path(before).mkdir(parents=True, exist_ok=True)
    Path(before, name).write_text("mine")
    main(["fit", *ARGUMENTS, "--trainer.max_epochs=1", f"--trainer.logger={LOGGERS[logger]}"])
    assert Path(before, name).read_text() == "mine"
    assert {"config.yaml", "metrics.csv"} <= {path.name for path in Path(after).iterdir()}


def trainer(**arguments: Any) -> Trainer:
    return Trainer(**{"accelerator": "cpu", "logger": False, "enable_checkpointing": False, **arguments})


def test_runs_that_start_at_once_do_not_share_a_folder() -> None:
    trainers = [trainer() for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(run_folder, trainers))
    assert len(set(folders)) == 16
    assert [run_folder(each) for each in trainers] == folders  # the same when it is asked again
    assert len(list(Path("lightning_logs").iterdir())) == 16


def test_files_that_are_written_at_once_have_names_of_their_own() -> None:
    with ThreadPoolExecutor(16) as pool:
        stems = list(pool.map(lambda n: write_new("out/table", {".csv": b"%d" % n, ".md": b"%d" % n}), range(16)))
    assert len(set(stems)) == 16
    for number, stem in enumerate(stems):
        assert Path(f"{stem}.csv").read_text() == Path(f"{stem}.md").read_text() == str(number)


def test_a_name_that_is_taken_in_part_is_not_begun_with() -> None:
    Path("table.md").write_text("mine")
    assert write_new("table", {".csv": b"", ".md": b""}) == "table-v1"
    assert sorted(path.name for path in Path().iterdir()) == ["table-v1.csv", "table-v1.md", "table.md"]


def test_a_folder_that_was_made_for_a_run_is_its_own() -> None:
    run = trainer()
    own_folder(run, "mine")
    assert run_folder(run) == "mine"


def test_folders_on_other_file_systems() -> None:
    root = "memory://root"
    folders = [run_folder(trainer(default_root_dir=root)) for _ in range(2)]
    assert folders == [f"{root}/lightning_logs/version_{version}" for version in (0, 1)]
    assert [write_new(f"{root}/test", {".csv": b"1"}) for _ in range(2)] == [f"{root}/test", f"{root}/test-v1"]
    assert get_filesystem(root).cat_file(f"{root}/test.csv") == b"1"
    assert not list(Path().iterdir())


# ------------------------------------------------------------ predictions
@pytest.fixture
def predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    encoder = hub.tiny_encoder(tmp_path / "encoder", layers=1)
    train = write(tmp_path / "train.csv", text=list(hub.KEYS[:4]), label=["no", "yes"] * 2)

    def run(folder: str | None, part: str) -> None:
        data = TextDataModule(data_files={"train": train, f"predict.{part}": train}, tokenizer=encoder, batch_size=4)
        quiet = {"enable_progress_bar": False, "callbacks": [PredictionWriter(folder)]}
        trainer(**quiet).predict(SequenceClassification(encoder, 2, Identity()), data, return_predictions=False)

    return run


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_predictions_are_not_written_over(predict: Any) -> None:
    Path("out").mkdir()
    Path("out", "de.tsv").write_text("mine")
    predict("out", "fr")  # beside it
    predict("out", "de")
    predict(None, "de")
    predict(None, "de")
    assert Path("out", "de.tsv").read_text() == "mine"
    rows = {
        str(path): len(path.read_text().splitlines()) for path in Path().rglob("*.tsv") if str(path) != "out/de.tsv"
    }
    logs = [f"lightning_logs/version_{version}/predictions/de.tsv" for version in (0, 1)]
    assert rows == dict.fromkeys(["out/fr.tsv", "out-v1/de.tsv", *logs], 5)
