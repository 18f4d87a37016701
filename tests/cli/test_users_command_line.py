"""LightningCLI replaces transforms, by `parser_class` alone."""

import json
from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI

from lightning_sparsegrad import SparseGradArgumentParser
from tests.cli.helpers import STRATEGIES, Arguments, Task, alone, any_model, in_any, in_one, strategy


class UsersCLI(LightningCLI):
    """A user's command line that only parses the config."""

    def __init__(self, model: type[LightningModule] | None, args: Any, **kwargs: Any) -> None:
        super().__init__(
            model,
            args=args,
            parser_class=SparseGradArgumentParser,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=False,
            **kwargs,
        )

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


FIRST, SECOND = STRATEGIES["grad_drop"], STRATEGIES["grad_drop_again"]


def named(model: dict[str, Any]) -> dict[str, Any]:
    return {"model": {"class_path": f"{Task.__module__}.Task", **model["model"]}}


WAYS = [
    *product((None, Task), (True, False), ("files", "dict over default", "file over default", "file before the flags"))
]


# by default every value once
@pytest.mark.parametrize("ways", [WAYS[::3], pytest.param([*WAYS[1::3], *WAYS[2::3]], marks=pytest.mark.long)])
def test_a_strategy_replaces_one_that_was_read_before(
    ways: list[Any], arguments: Arguments, subtests: pytest.Subtests
) -> None:
    for model, run, where in ways:
        with subtests.test(model=model, run=run, where=where):
            second_is_alone(model, run, where, arguments)


def second_is_alone(model: type[LightningModule] | None, run: bool, where: str, arguments: Arguments) -> None:
    def config(spec: Any) -> dict[str, Any]:
        return in_one(spec) if model else named(in_any(spec))

    def parse(first: Any) -> Any:
        kwargs: dict[str, Any] = {}
        given: Any = Arguments(arguments.folder)
        if "default" in where and first:
            default = arguments.folder / "default.yaml"
            default.write_text(yaml.safe_dump(config(first)))
            files = {"default_config_files": [str(default)]}
            kwargs["parser_kwargs"] = {"fit": files} if run else files
        if where == "files":
            given.flags(*["fit"] * run)
            for spec in (first, SECOND) if first else (SECOND,):
                given.file(config(spec))
        elif where == "dict over default":
            given = deepcopy({"subcommand": "fit", "fit": config(SECOND)} if run else config(SECOND))
        elif where == "file over default" and run:
            given.file({"fit": config(SECOND)}).flags("fit")  # before the subcommand
        else:
            given.flags(*["fit"] * run)
            if first and where != "file over default":
                given.file(config(first))
            given.flags(*[] if model else [f"--model={Task.__module__}.Task"])
            given.flags(f"--model.gradient_transform={json.dumps(SECOND)}")
        parsed = UsersCLI(model, given, run=run, **kwargs).config
        return strategy(parsed["fit"] if run else parsed)

    assert parse(FIRST) == parse(None) == alone(SECOND, arguments.folder)


def test_environment_of_a_users_command_line(arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments.file(in_one(FIRST)).file(in_one(SECOND))
    monkeypatch.setenv("PL_CONFIG", arguments[1])
    config = UsersCLI(Task, arguments[2:], run=False, parser_kwargs={"default_env": True}).config
    assert strategy(config) == alone(SECOND, arguments.folder)


def test_abbreviated_flag_is_no_flag(arguments: Arguments, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        UsersCLI(Task, ["fit", "--trainer.max_epoch=3"])
    assert exit_info.value.code == 2
    assert "Near matches: `max_epochs`" in capsys.readouterr().err


def test_positional_arguments_still_work(arguments: Arguments) -> None:
    parser = any_model()
    parser.add_argument("name", type=str)
    config = parser.parse_args(arguments.file(in_any(FIRST)).flags("run").file(in_any(SECOND)))
    assert config.name == "run"
    assert strategy(config) == alone(SECOND, arguments.folder)
