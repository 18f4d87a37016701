"""A command reads each config file once, and only the config of a checkpoint."""

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_sparsegrad.main import main
from lightning_sparsegrad.resume._checkpoints import stored_run
from tests.cli.helpers import STRATEGIES, any_model, in_any, strategy
from tests.command_line import DROP, LABELLED, QUICK, READER, Reader

_opened: Counter[str] = Counter()
_listens: list[bool] = []
STRATEGY = {"class_path": "GradDrop", "init_args": {"rate": 0.5}}


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if _listens and event == "open" and isinstance(arguments[0], str) and "r" in str(arguments[1]):
        _opened[Path(arguments[0]).name] += 1


@pytest.fixture(scope="module", autouse=True)
def _audited() -> None:
    sys.addaudithook(_count)  # cannot be removed, and is inactive outside `opens`


@contextmanager
def opens() -> Iterator[Counter[str]]:
    _opened.clear()
    _listens.append(True)
    try:
        yield _opened
    finally:
        _listens.clear()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Reader.made.clear()
    task = {"model": {"class_path": f"{Reader.__module__}.Reader", "init_args": {"lr": 0.25}}}
    Path("task.yaml").write_text(yaml.safe_dump(task))
    Path("strategy.yaml").write_text(yaml.safe_dump(in_any("drop.yaml")))
    Path("drop.yaml").write_text(yaml.safe_dump(STRATEGY))


@contextmanager
def pipe(text: str) -> Iterator[str]:
    """Yield a file name that can be read once, like `<(echo text)` in a shell."""
    reading, writing = os.pipe()

    def write() -> None:
        os.write(writing, text.encode())
        os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield f"/dev/fd/{reading}"
    finally:
        writer.join()
        os.close(reading)


def test_each_file_is_opened_once_in_a_fit() -> None:
    with opens() as files:
        main(["fit", "--config=task.yaml", "--config", "strategy.yaml", LABELLED, *QUICK])
    assert {name: files[name] for name in ("task.yaml", "strategy.yaml", "drop.yaml")} == {
        "task.yaml": 1,
        "strategy.yaml": 1,
        "drop.yaml": 1,
    }
    assert Reader.made == [{"num_labels": 3, "lr": 0.25, "transform": "GradDrop(rate=0.5)"}]


def test_another_command_reads_it_again() -> None:
    parser = any_model()
    for rate in (0.25, 0.75):
        Path("drop.yaml").write_text(yaml.safe_dump({**STRATEGY, "init_args": {"rate": rate}}))
        with opens() as files:
            config = parser.parse_args(["--config=strategy.yaml"])
        assert strategy(config)["init_args"]["rate"] == rate
        assert (files["strategy.yaml"], files["drop.yaml"]) == (1, 1)


def test_a_config_may_come_through_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pipe(Path("task.yaml").read_text()) as name:
        main(["fit", "--config", name, LABELLED, *DROP, *QUICK])
    assert [made["lr"] for made in Reader.made] == [0.25]
    with pipe("model:\n  init_args:\n    lrr: 0.5\n") as name, pytest.raises(SystemExit, match=r"^2$"):
        main(["fit", READER, f"--config={name}", *QUICK])
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"`lrr` is not an argument of `Reader` at `model`, in {name} line 3. Near matches: `lr`." in line
    with pipe("model: {lr: 0.5") as name, pytest.raises(SystemExit, match=r"^2$"):
        main(["fit", READER, f"--config={name}", *QUICK])
    assert f"error: {name} is not valid YAML: " in capsys.readouterr().err.splitlines()[-1]


def test_a_strategy_may_come_through_a_pipe_over_another() -> None:
    with pipe(yaml.safe_dump(STRATEGIES["grad_drop_again"])) as name:
        flags = ["--model.gradient_transform=GradDrop", "--model.gradient_transform.seed=9"]
        config = any_model().parse_args([*flags, f"--model.gradient_transform={name}"])
    assert strategy(config)["init_args"] == {**strategy(config)["init_args"], "rate": 0.2, "seed": None}


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs the count of bytes read by a process")
def test_the_config_of_a_checkpoint_is_read_without_its_tensors() -> None:
    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    config = {"model": {"class_path": f"{Reader.__module__}.Reader"}}
    torch.save({"state_dict": {"w": torch.ones(2**22)}, "lightning_sparsegrad_config": config}, "x.ckpt")
    before = read()
    assert stored_run(Path("x.ckpt")).config == config
    assert read() - before < 2**20  # of 16 MiB


def test_a_file_that_is_no_text_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("drop.yaml").write_bytes(b"\xff\xfe")
    for arguments in (["--config=drop.yaml"], ["--config=strategy.yaml"], ["--model=drop.yaml"]):
        with pytest.raises(SystemExit, match=r"^2$"):
            main(["fit", READER, *arguments, LABELLED])
        assert "text in UTF-8. Found `drop.yaml`: " in capsys.readouterr().err.splitlines()[-1]


def test_usage_names_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/lightning_sparsegrad/__main__.py"])
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["fit", "--help"])
    assert capsys.readouterr().out.startswith("usage: sparsegrad ")
