import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from lightning_sparsegrad.studies._lightning import ConfigReader
from lightning_sparsegrad.studies._runs import make_runs
from lightning_sparsegrad.studies._study import Study
from tests.strategies import OVERLAYS, ROOT, STRATEGIES

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_python_blocks_run_one_after_the_other_and_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102  # the point of the test
    assert 0.5 < float(names["engine"].statistics["kept"]) < 1  # type: ignore[attr-defined]
    task, trainer = names["task"], names["trainer"]
    data = torch.utils.data.TensorDataset(torch.randn(16, 16), torch.randint(2, (16,)))
    with pytest.raises(ValueError, match="one place"):  # the two doors of the README are alternatives
        trainer.fit(task, torch.utils.data.DataLoader(data, batch_size=8))  # type: ignore[attr-defined]


def test_the_yaml_blocks_are_configs_of_the_command_line() -> None:
    task, study = map(yaml.safe_load, blocks("yaml"))
    assert task["model"]["init_args"]["gradient_transform"] == {"class_path": "GradDrop", "init_args": {"rate": 0.2}}
    assert set(study) < set(Study.__dataclass_fields__)


def test_the_study_makes_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    runs = make_runs(Study(**yaml.safe_load(blocks("yaml")[1])), tmp_path)
    assert len(runs) == 3 * 2 * 20


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if "python cli.py fit" in line]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, *arguments = shlex.split(command.split("python ")[-1])
    assert ConfigReader(args=arguments).resolved["model"]["class_path"].endswith("SequenceClassification")


def test_every_config_the_readme_names_exists() -> None:
    for path in re.findall(r"configs/[\w/]+\.yaml", README):
        assert (ROOT / path).is_file(), path


def test_every_strategy_and_overlay_has_its_line_in_the_table() -> None:
    table = README.split("## Strategies")[1].split("Rates and thresholds")[0]
    rows = [line.split("|")[1:] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(row[0].strip(" `") for row in rows) == [strategy.__name__ for strategy in STRATEGIES]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row[1])) == sorted(OVERLAYS)
    assert all(row[2].strip() for row in rows)
