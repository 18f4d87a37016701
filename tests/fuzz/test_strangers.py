"""A stranger's configs, checkpoints, models and data run no code."""

import json
import os
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, StringIO
from itertools import cycle
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser, capture_parser
from safetensors.torch import load_file

from lightning_sparsegrad import SequenceClassification, SparseGradArgumentParser, SparseGradCLI
from lightning_sparsegrad.untrusted._safe_yaml import load
from tests.fuzz import trap
from tests.fuzz.cases import MARK
from tests.fuzz.conftest import Run
from tests.fuzz.material import strategy, to_yaml

TAG = f"!!python/object/apply:os.system ['touch {MARK}']"


class Code:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARK}",)


def with_code(**content: Any) -> bytes:
    buffer = BytesIO()
    torch.save({"state_dict": {}, "code": Code(), **content}, buffer)
    return buffer.getvalue()


# ------------------------------------------------------------ checkpoints
@pytest.mark.parametrize(
    "subcommand", ["fit", "predict", *(pytest.param(each, marks=pytest.mark.long) for each in ("validate", "test"))]
)
def test_a_checkpoint_runs_no_code(subcommand: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "evil.ckpt").write_bytes(with_code())
    result = run(subcommand, "--config=task.yaml", f"--ckpt_path={tmp_path}/evil.ckpt")
    assert result.verdict == "refused"
    assert "an object of `posix.system`, which would run code when loaded" in result.text


def test_no_option_lets_it_run(run: Run, subtests: pytest.Subtests) -> None:
    for argument in ("--weights_only=false", "--config=o.yaml"):
        with subtests.test(argument):
            result = run("fit", "--config=task.yaml", argument, o=b"weights_only: false\n")
            assert result.verdict == "refused"
            assert "`weights_only` is not an option" in result.text


def test_nor_does_one_from_http(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning alone would load it and run its code."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "downloads"))
    (tmp_path / "evil.ckpt").write_bytes(with_code())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        Thread(target=server.serve_forever).start()
        result = run("fit", "--config=task.yaml", f"--ckpt_path=http://127.0.0.1:{server.server_port}/evil.ckpt")
        server.shutdown()
    assert result.verdict == "refused"
    assert "an object of `posix.system`" in result.text


# ------------------------------------------------------------ configs
NAMES = [
    "os.system", "subprocess.Popen", f"{trap.__name__}.function", f"{trap.__name__}.Thing",
]  # fmt: skip
POSITIONS = [
    "model", "data", "model.gradient_transform", "model.gradient_transform.transforms.mask.rate", "model.optimizer",
    "model.lr_scheduler", "trainer.callbacks", "trainer.plugins",
]  # fmt: skip


NAMED = [(name, json.dumps({"class_path": name, "init_args": {"command": f"touch {MARK}"}})) for name in NAMES]


def test_what_a_config_may_not_name_is_not_called(run: Run, subtests: pytest.Subtests) -> None:
    for where, (name, spec) in zip(POSITIONS, cycle(NAMED), strict=False):
        trap.called.clear()
        with subtests.test(where=where, name=name):
            assert run("fit", "--config=task.yaml", f"--{where}={spec}").verdict == "refused"
            assert trap.called == []


@pytest.mark.long
@pytest.mark.parametrize("where", POSITIONS)
@pytest.mark.parametrize("named", NAMED)
def test_whatever_it_names_wherever(named: tuple[str, str], where: str, run: Run) -> None:
    trap.called.clear()
    for value in named:
        assert run("fit", "--config=task.yaml", f"--{where}={value}").verdict == "refused"
    assert trap.called == []


def test_nor_is_it_from_a_checkpoint(run: Run, tmp_path: Path, model: str) -> None:
    arguments = {
        "model_name_or_path": model, "num_labels": 2, "gradient_transform": {"class_path": "Identity"},
        "optimizer": {"class_path": f"{trap.__name__}.makes_a_path", "init_args": {"command": "x"}},
    }  # fmt: skip
    config = {"model": {"class_path": "lightning_sparsegrad.SequenceClassification", "init_args": arguments}}
    torch.save({"state_dict": {}, "lightning_sparsegrad_config": config}, tmp_path / "stored.ckpt")
    instantiator = {"_instantiator": "lightning.pytorch.cli.instantiate_module", **arguments}
    stored = {"pytorch-lightning_version": "2.6.6", "epoch": 0, "global_step": 0, "loops": {}, "state_dict": {}}
    torch.save({**stored, "hyper_parameters": instantiator}, tmp_path / "hyper.ckpt")
    trap.called.clear()
    result = run("test", f"--ckpt_path={tmp_path}/stored.ckpt", "--data=TextDataModule")
    assert result.verdict == "refused"
    assert "makes_a_path" in result.text
    with pytest.raises(
        Exception,
        match="makes_a_path` is not called: the parameter expects no function with this return type",
    ):
        SequenceClassification.load_from_checkpoint(tmp_path / "hyper.ckpt", weights_only=True)
    assert trap.called == []


@pytest.mark.filterwarnings(r"ignore:(?s)\s+Instantiating a subclass spec")
def test_modules_are_made_without_a_type() -> None:
    parser = SparseGradArgumentParser(exit_on_error=False)
    parser.add_argument("--any", type=Any)
    made = parser.instantiate(
        parser.parse_object(
            {"any": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}}}
        )
    )
    assert made.any.weight.shape == (3, 2)


def test_the_trap_is_one() -> None:
    trap.called.clear()
    trap.Thing()
    trap.function()
    trap.CallableThing()()
    assert trap.called == ["class", "function", "callable class", "call"]


@pytest.mark.parametrize("loader", [load, yaml.unsafe_load])
def test_a_tag_of_python_runs_no_code(loader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if loader is yaml.unsafe_load:  # it would
        loader(TAG)
    else:
        with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
            loader(TAG)
    assert Path(MARK).exists() == (loader is yaml.unsafe_load)


DOORS = ("--config=o.yaml", "--model.gradient_transform=o.yaml", f"--trainer.max_epochs={TAG}", f"--config={TAG}")


def test_no_door_takes_a_tag_of_python(run: Run, subtests: pytest.Subtests) -> None:
    for argument in DOORS:
        with subtests.test(argument):
            assert run("fit", "--config=task.yaml", argument, o=TAG.encode()).verdict == "refused"


def test_the_environment_takes_none_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_FIT__TRAINER__MAX_EPOCHS", TAG)
    with pytest.raises(SystemExit):
        SparseGradCLI(parser_kwargs={"default_env": True, "fit": {"default_env": True}}, args=["fit"])
    assert not Path(MARK).exists()


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    return capture_parser(SparseGradCLI, args=[])


def test_the_parser_reads_every_text_by_the_bounded_loader(parser: ArgumentParser) -> None:
    assert isinstance(parser, SparseGradArgumentParser)
    assert {each.parser_mode for each in (parser, *parser._subcommands_action.choices.values())} == {"sparsegrad_yaml"}  # type: ignore[union-attr]


TEXTS = [
    ("a: 1\nb: {c: 1, c: 2}\n", "the key `c` occurs twice"),
    ("[" * 101 + "]" * 101, "more than 100 levels"),
    ("a: &a [*a]\n", "contains itself"),
    ("\n".join(f"k{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else '1'] * 9)}]" for i in range(9)), "1000000 values"),
]


def test_texts_that_are_too_much_are_refused(run: Run, subtests: pytest.Subtests) -> None:
    for text, answer in TEXTS:
        with subtests.test(answer):
            with pytest.raises(yaml.YAMLError, match=answer):
                load(text)
            result = run("fit", "--config=task.yaml", "--config=o.yaml", o=text.encode())
            assert result.verdict == "refused"
            assert f"o.yaml is not valid YAML: {'' if '*' in text else answer}" in result.text


def test_aliases_are_as_ever() -> None:
    text = "a: &a {b: 1, c: [1, 2]}\nd: *a\ne: {<<: *a, f: 1}\n"
    assert load(text) == yaml.safe_load(text)


# ------------------------------------------------------------ models and data
def test_a_model_runs_no_code(model: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No code of a pickle runs, nor of a folder, which `trust_remote_code` would import; there is no prompt."""
    monkeypatch.setattr("sys.stdin", StringIO("y\n" * 9))
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(model).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(with_code(**load_file(Path(model) / "model.safetensors")))
    flag = f"--model.model_name_or_path={folder}"
    assert run("fit", "--config=task.yaml", flag).verdict == "refused"

    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model", "AutoTokenizer": "code.T"}
    (folder / "code.py").write_text(f"open({MARK!r}, 'w')\n")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": own}))
    result = run("fit", "--config=task.yaml", flag)
    assert result.verdict == "refused"
    assert "model_name_or_path" in result.text


@pytest.mark.parametrize(
    "start",
    [
        (2**40).to_bytes(8, "little"),
        *(pytest.param(each, marks=pytest.mark.long) for each in (b"\xff" * 8, bytes(8), b"\x40" + bytes(7))),
    ],
)
def test_weights_whose_header_lies_end_in_one_line(start: bytes, model: str, run: Run, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(start + weights.read_bytes()[8:])
    result = run("fit", "--config=task.yaml", f"--model.model_name_or_path={tmp_path / 'model'}")
    assert result.verdict == "refused"
    assert "`model_name_or_path`" in result.text


def test_a_folder_of_data_runs_no_code(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "words.py").write_text(f"open({MARK!r}, 'w')\n")
    overlay = to_yaml({"data": {"init_args": {"dataset": str(folder), "data_files": None}}})
    result = run("fit", "--config=task.yaml", "--config=o.yaml", o=overlay)
    assert result.verdict == "refused"
    assert "`dataset" in result.text


def test_every_strategy_named_twice_over_is_refused_by_its_line(run: Run) -> None:
    text = to_yaml(strategy("GradDrop")) + to_yaml(strategy("HeadOnly"))
    result = run("fit", "--config=task.yaml", "--config=o.yaml", o=text)
    assert "o.yaml is not valid YAML: the key `model` occurs twice, line 7" in result.text
