"""The overlays for several devices, on the command line, with two processes."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import hub

ROOT = Path(__file__).parents[2]
TASKS = ("ner", "mlqa", "wpr")

_ABORTED = "terminate called without an active exception\n"

pytestmark = [pytest.mark.distributed, pytest.mark.long]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmarks")
    hub.tiny_encoder(root / "encoder")
    for task in TASKS:
        hub.write_xglue(root / "data", task, rows=13)  # no multiple of the processes
    return root


def run(root: Path, subcommand: str, task: str, name: str, *more: str, devices: int = 2) -> Path:
    """Run a command in a separate process, and return the folder it wrote."""
    folder = root / name
    quiet = ("accelerator=cpu", "precision=32", "logger=false", "enable_progress_bar=false", "num_sanity_val_steps=0")
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "cli.py"), subcommand, f"--config={ROOT / 'configs' / 'xglue' / task}.yaml"),
            *more,
            *(f"--data.dataset={root / 'data'}", "--data.languages=[en,de]", "--data.eval_batch_size=3"),
            *(f"--model.model_name_or_path={root / 'encoder'}", f"--trainer.default_root_dir={folder}"),
            *(f"--trainer.devices={devices}", *(f"--trainer.{each}" for each in quiet)),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    # gloo's threads may abort a process that is done
    assert done.returncode == 0 or done.stderr.endswith(_ABORTED), done.stderr[-4000:]
    return folder


def results(folder: Path) -> Path:
    """Return the only folder that all processes of a run wrote to."""
    (run,) = (folder / "lightning_logs").iterdir()
    return run


def overlay(name: str) -> str:
    return f"--config={ROOT / 'configs' / 'trainer' / name}.yaml"


def weights(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "checkpoints").glob("*.ckpt")
    state: dict[str, Any] = torch.load(path, weights_only=True)["state_dict"]
    return state


def test_shards_train_as_replicas_do(root: Path) -> None:
    steps = (
        "--trainer.max_epochs=1",
        "--data.batch_size=3",
        "--model.optimizer=torch.optim.SGD",
        "--model.optimizer.lr=0.1",
        "--model.optimizer.fused=false",
    )
    replicas, shards = (weights(run(root, "fit", "ner", name, overlay(name), *steps)) for name in ("ddp", "fsdp2"))
    assert replicas.keys() == shards.keys()
    for name, weight in replicas.items():
        torch.testing.assert_close(shards[name], weight, rtol=1e-4, atol=1e-6)


def test_scores_of_two_processes_are_those_of_one(root: Path) -> None:
    one = run(root, "test", "ner", "scored alone", devices=1)
    two = run(root, "test", "ner", "scored together", overlay("ddp"))
    tables = [list(csv.reader((results(folder) / "test.csv").read_text().splitlines())) for folder in (one, two)]
    assert [row[0] for row in tables[0]] == ["metric", "loss", "accuracy", "span_f1", "span_precision", "span_recall"]
    assert tables[0][0] == tables[1][0]
    for alone, together in zip(*(table[1:] for table in tables), strict=True):
        assert list(map(float, together[1:])) == pytest.approx(list(map(float, alone[1:])), rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_predictions_of_two_processes_are_those_of_one(root: Path, task: str) -> None:
    one = results(run(root, "predict", task, f"{task} alone", devices=1)) / "predictions"
    two = results(run(root, "predict", task, f"{task} shared", overlay("ddp"))) / "predictions"
    files = sorted(path.relative_to(one) for path in one.rglob("*.prediction"))
    assert len(files) == 2
    for file in files:
        expected, shared = ((folder / file).read_text(encoding="utf-8") for folder in (one, two))
        if task == "wpr":
            assert list(map(float, shared.split())) == pytest.approx(list(map(float, expected.split())), rel=1e-4)
        else:
            assert shared == expected
