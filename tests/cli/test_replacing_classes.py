"""A class of any kind inherits no value and no default from the class that it replaces."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.profilers import AdvancedProfiler, Profiler
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import StepLR

from lightning_sparsegrad import SparseGradArgumentParser
from tests.cli.helpers import Arguments, plain

HERE = __name__


class Encoder:
    def __init__(self, width: int = 1, depth: int = 2) -> None:
        pass


class OtherEncoder(Encoder):
    def __init__(self, width: int = 10, heads: int = 4) -> None:
        pass


class Task(LightningModule):
    def __init__(
        self,
        width: int = 1,
        optimizer: OptimizerCallable = lambda parameters: AdamW(parameters, lr=2e-5, weight_decay=0.02),
        lr_scheduler: LRSchedulerCallable | None = None,
        encoder: Encoder | None = None,
        encoders: dict[str, Encoder] | None = None,
    ) -> None:
        super().__init__()


class OtherTask(LightningModule):
    def __init__(self, width: int = 3, optimizer: OptimizerCallable = SGD) -> None:
        super().__init__()


class Data(LightningDataModule):
    def __init__(self, size: int = 1, seed: int = 0) -> None:
        super().__init__()


class OtherData(LightningDataModule):
    def __init__(self, size: int = 2, fold: int = 0) -> None:
        super().__init__()


class Stop(Callback):
    def __init__(self, encoder: Encoder | None = None, patience: int = 1) -> None:
        pass


class Run:
    """The arguments of a Trainer that are classes, with the Trainer's types."""

    def __init__(
        self,
        callbacks: list[Callback] | Callback | None = None,
        logger: Logger | Iterable[Logger] | bool | None = None,
        plugins: Precision | list[Precision] | None = None,
        profiler: Profiler | str | None = None,
        strategy: str | Strategy = "auto",
    ) -> None:
        pass


def spec(class_path: Any, **init_args: Any) -> dict[str, Any]:
    path = class_path if isinstance(class_path, str) else f"{class_path.__module__}.{class_path.__qualname__}"
    return {"class_path": path, "init_args": init_args}


# key; first value; replacement, its class, and the positional arguments that the caller passes
REPLACEMENTS: dict[str, tuple[dict[str, Any], dict[str, Any], type, set[Any]]] = {
    "model.optimizer": (spec("AdamW", lr=0.5, weight_decay=0.3, eps=0.1), spec("SGD", momentum=0.5), SGD, {1}),
    "model.lr_scheduler": (spec("ExponentialLR", gamma=0.7), spec("StepLR", step_size=3), StepLR, {1}),
    "model.encoder": (spec(Encoder, width=7, depth=7), spec(OtherEncoder, heads=5), OtherEncoder, set()),
    "model.encoders.a": (spec(Encoder, width=7, depth=7), spec(OtherEncoder, heads=5), OtherEncoder, set()),
    "data": (spec(Data, size=7, seed=7), spec(OtherData, fold=5), OtherData, set()),
    "trainer.logger": (
        spec("TensorBoardLogger", save_dir="a", name="b"), spec("CSVLogger", save_dir="c"), CSVLogger, set(),
    ),
    "trainer.profiler": (
        spec("SimpleProfiler", dirpath="a", filename="b"), spec("AdvancedProfiler"), AdvancedProfiler, set(),
    ),
    "trainer.strategy": (
        spec("DDPStrategy", process_group_backend="gloo"), spec("SingleDeviceStrategy", device="cpu"),
        SingleDeviceStrategy, set(),
    ),
    "trainer.plugins": (
        spec("lightning.pytorch.plugins.FSDPPrecision", precision="bf16-true"),
        spec("lightning.pytorch.plugins.MixedPrecision", precision="16-mixed", device="cpu"), MixedPrecision, set(),
    ),
    "trainer.callbacks": (
        spec("ModelCheckpoint", monitor="a", mode="max", verbose=True), spec("EarlyStopping", monitor="b"),
        EarlyStopping, set(),
    ),
}  # fmt: skip


def make_parser() -> SparseGradArgumentParser:
    parser = SparseGradArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Run, "trainer")
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
    return parser


@pytest.fixture(scope="module")
def parser() -> SparseGradArgumentParser:
    return make_parser()


def nested(where: str, value: Any) -> dict[str, Any]:
    for name in reversed(where.split(".")):
        value = {name: value}
    return {"model": {"init_args": value["model"]}} if "model" in value else value


def at(config: Namespace, where: str) -> Any:
    config = plain(config)
    for name in where.split("."):
        config = config[name] if name in config else config["init_args"][name]
    return config[0] if isinstance(config, list) else config


def own(kind: type, skip: set[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of a class, as jsonargparse reads them, updated by the given values."""
    parser = ArgumentParser()
    parser.add_class_arguments(kind, skip=skip, fail_untyped=False)
    return {**plain(parser.get_defaults()), **given}


def by_files(arguments: Arguments, where: str, value: dict[str, Any]) -> None:
    arguments.file(nested(where, value))


def by_files_in_lists(arguments: Arguments, where: str, value: dict[str, Any]) -> None:
    arguments.file(nested(where, [value]))


def by_text(arguments: Arguments, where: str, value: dict[str, Any]) -> None:
    arguments.flags(f"--{where}={json.dumps(value)}")


def by_flags(arguments: Arguments, where: str, value: dict[str, Any]) -> None:
    arguments.flags(f"--{where}={value['class_path']}")
    arguments.flags(*(f"--{where}.{name}={given}" for name, given in value["init_args"].items()))


def by_class_path_flags(arguments: Arguments, where: str, value: dict[str, Any]) -> None:
    arguments.flags(f"--{where}.class_path", value["class_path"])
    arguments.flags(*(f"--{where}.init_args.{name}={given}" for name, given in value["init_args"].items()))


DOORS = [by_files, by_text, by_flags, by_class_path_flags]


def test_another_class_has_nothing_of_the_one_before_it(
    parser: SparseGradArgumentParser, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for where, (before, after, kind, skip) in REPLACEMENTS.items():
        expected = own(kind, skip, after["init_args"])
        for first in (by_files, by_flags):
            arguments = Arguments(tmp_path).flags(f"--model={HERE}.Task")
            if where == "model.encoders.a":
                arguments.flags("--model.encoders={}")
            first(arguments, where, before)
            assert at(parser.parse_args(arguments), where)["init_args"].items() >= before["init_args"].items()
            for second in DOORS if first is by_files else DOORS[::3]:
                with subtests.test(where=where, first=first.__name__, second=second.__name__):
                    again = Arguments(tmp_path)
                    again.extend(arguments)
                    second(again, where, after)
                    replaced = at(parser.parse_args(again), where)
                    assert replaced["class_path"].endswith(kind.__name__)
                    assert replaced["init_args"] == expected


def test_item_of_a_list_is_replaced_in_its_place(parser: SparseGradArgumentParser, tmp_path: Path) -> None:
    before, after, kind, skip = REPLACEMENTS["trainer.callbacks"]
    for second in (by_files_in_lists, by_class_path_flags):
        arguments = Arguments(tmp_path).flags(f"--model={HERE}.Task")
        by_files_in_lists(arguments, "trainer.callbacks", before)
        second(arguments, "trainer.callbacks", after)
        (replaced,) = parser.parse_args(arguments).trainer.callbacks
        assert plain(replaced)["init_args"] == own(kind, skip, after["init_args"])


def test_class_inside_an_item_of_a_list_is_replaced(arguments: Arguments) -> None:
    arguments.flags(f"--model={HERE}.Task")
    for encoder in (spec(Encoder, width=7), spec(OtherEncoder)):
        arguments.file({"trainer": {"callbacks": [spec(Stop, encoder=encoder)]}})
    (stop,) = make_parser().parse_args(arguments).trainer.callbacks
    assert plain(stop.init_args.encoder.init_args) == {"width": 10, "heads": 4}


def test_default_of_the_model_does_not_show_through(parser: SparseGradArgumentParser, tmp_path: Path) -> None:
    _, after, kind, skip = REPLACEMENTS["model.optimizer"]
    for door in DOORS[1:]:
        arguments = Arguments(tmp_path).flags(f"--model={HERE}.Task")
        door(arguments, "model.optimizer", after)
        arguments_read = at(parser.parse_args(arguments), "model.optimizer.init_args")
        assert arguments_read == own(kind, skip, after["init_args"]), door


def test_same_class_named_again_keeps_its_arguments(parser: SparseGradArgumentParser) -> None:
    for name in ("AdamW", "torch.optim.AdamW", "torch.optim.adamw.AdamW"):
        flags = [f"--model={HERE}.Task", "--model.optimizer.eps=0.1", f"--model.optimizer={name}"]
        optimizer = at(parser.parse_args(flags), "model.optimizer.init_args")
        assert (optimizer["eps"], optimizer["lr"], optimizer["weight_decay"]) == (0.1, 2e-5, 0.02), name


def test_a_class_that_comes_back_starts_from_the_defaults(arguments: Arguments) -> None:
    arguments.flags(f"--model={HERE}.Task", "--model.optimizer.eps=0.1")
    arguments.flags("--model.optimizer=SGD", "--model.optimizer.lr=0.3", "--model.optimizer=AdamW")
    optimizer = at(make_parser().parse_args(arguments), "model.optimizer.init_args")
    assert (optimizer["eps"], optimizer["lr"], optimizer["weight_decay"]) == (1e-8, 2e-5, 0.02)


def test_arguments_of_the_new_class_stay(arguments: Arguments) -> None:
    arguments.flags(f"--model={HERE}.Task", "--model.optimizer=SGD", "--model.optimizer.momentum=0.5")
    arguments.file(nested("model.optimizer", {"init_args": {"lr": 0.3}})).flags("--model.optimizer.nesterov=true")
    optimizer = at(make_parser().parse_args(arguments), "model.optimizer.init_args")
    assert optimizer == own(SGD, {1}, {"lr": 0.3, "momentum": 0.5, "nesterov": True})


def test_nothing_of_it_comes_back_after_null(arguments: Arguments) -> None:
    scheduler = "--model.lr_scheduler"
    arguments.flags(f"--model={HERE}.Task", f"{scheduler}=StepLR", f"{scheduler}.step_size=3", f"{scheduler}.gamma=0.5")
    arguments.flags(f"{scheduler}=null", f"{scheduler}=StepLR", f"{scheduler}.step_size=4")
    assert at(make_parser().parse_args(arguments), "model.lr_scheduler.init_args") == own(StepLR, {1}, {"step_size": 4})


def test_another_model_has_its_own_arguments(arguments: Arguments) -> None:
    arguments.flags(f"--model={HERE}.Task", "--model.width=7", "--model.optimizer.lr=0.5", f"--model={HERE}.OtherTask")
    model = plain(make_parser().parse_args(arguments).model)
    assert model["init_args"]["width"] == 3
    assert model["init_args"]["optimizer"]["init_args"] == own(SGD, {1}, {})


def test_stored_defaults_do_not_show_through(
    parser: SparseGradArgumentParser, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """The arguments in a checkpoint are such defaults of the command that loads it."""
    for where in ("model.optimizer", "model.lr_scheduler", "model.encoder", "data"):
        before, after, kind, skip = REPLACEMENTS[where]
        first = Arguments(tmp_path).flags(f"--model={HERE}.Task", f"--{where}={json.dumps(before)}")
        stored = yaml.safe_load(parser.dump(parser.parse_args(first)))
        resuming = make_parser()
        resuming.set_defaults({name: stored[name] for name in ("model", "data") if stored.get(name)})
        assert at(resuming.parse_args([]), where)["init_args"].items() >= before["init_args"].items()
        for door in DOORS:
            with subtests.test(where=where, door=door.__name__):
                arguments = Arguments(tmp_path)
                door(arguments, where, after)
                assert at(resuming.parse_args(arguments), where)["init_args"] == own(kind, skip, after["init_args"])


COSINE = "get_cosine_schedule_with_warmup"


def test_schedule_of_transformers_is_a_scheduler_like_any_other(
    parser: SparseGradArgumentParser, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    names = (COSINE, f"transformers.{COSINE}", f"transformers.optimization.{COSINE}", COSINE)
    for name, door in zip(names, DOORS, strict=True):
        with subtests.test(name=name, door=door.__name__):
            schedule_is_replaced_and_replaces(name, door, parser, Arguments(tmp_path))


def schedule_is_replaced_and_replaces(
    name: str, door: Any, parser: SparseGradArgumentParser, arguments: Arguments
) -> None:
    arguments.flags(f"--model={HERE}.Task", "--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=3")
    door(arguments, "model.lr_scheduler", spec(name, num_warmup_steps=2))
    arguments.flags("--model.lr_scheduler.num_cycles=1.5", f"--model.lr_scheduler={name}")
    config = parser.parse_args(arguments)
    expected = {"num_warmup_steps": 2, "num_cycles": 1.5, "last_epoch": -1, "num_training_steps": None}
    assert at(config, "model.lr_scheduler.init_args") == expected
    again = parser.parse_object(yaml.safe_load(parser.dump(config, skip_unset=False)))
    assert plain(again.model) == plain(config.model)
    replaced = parser.parse_args([*arguments, "--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=4"])
    assert at(replaced, "model.lr_scheduler.init_args") == own(StepLR, {1}, {"step_size": 4})


def test_schedule_of_transformers_asks_for_its_arguments(arguments: Arguments) -> None:
    arguments.flags(f"--model={HERE}.Task", "--model.lr_scheduler=transformers.get_linear_schedule_with_warmup")
    with pytest.raises(Exception, match="required: num_warmup_steps"):
        make_parser().parse_args(arguments)
