"""Naming a transform replaces the one before it."""

import json
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from lightning_sparsegrad import GradDrop, GradientTransform
from tests.cli.helpers import (
    MASK,
    STRATEGIES,
    Arguments,
    Task,
    TaskWithDefault,
    alone,
    any_model,
    callbacks,
    in_any,
    in_callback,
    in_one,
    one_model,
    only_callbacks,
    strategy,
)


class OtherTask(Task):
    pass


class HoldsOptionally(Callback):
    def __init__(self, gradient_transform: GradientTransform | None = None, every: int = 1) -> None:
        pass


def recipe(rate: float = 0.1, *, seed: int | None = None) -> GradDrop:
    return GradDrop(rate, seed=seed)


DOORS: dict[str, Any] = {
    "files": (any_model, lambda arguments, spec: arguments.file(in_any(spec)), strategy),
    "files without init_args": (any_model, lambda arguments, spec: arguments.file(in_one(spec)), strategy),
    "files, one model": (one_model, lambda arguments, spec: arguments.file(in_one(spec)), strategy),
    "files, default": (
        lambda: one_model(TaskWithDefault),
        lambda arguments, spec: arguments.file(in_one(spec)),
        strategy,
    ),
    "file of the model": (
        any_model,
        lambda arguments, spec: arguments.file({"gradient_transform": spec}, flag="--model"),
        strategy,
    ),
    "file of the one model": (
        one_model,
        lambda arguments, spec: arguments.file({"gradient_transform": spec}, flag="--model"),
        strategy,
    ),
    "file of the transform": (
        any_model,
        lambda arguments, spec: arguments.file(spec, flag="--model.gradient_transform"),
        strategy,
    ),
    "file of the transform, one model": (
        one_model,
        lambda arguments, spec: arguments.file(spec, flag="--model.gradient_transform"),
        strategy,
    ),
    "flags": (
        any_model,
        lambda arguments, spec: arguments.flags(f"--model.gradient_transform={json.dumps(spec)}"),
        strategy,
    ),
    "flags, one model": (
        one_model,
        lambda arguments, spec: arguments.flags(f"--model.gradient_transform={json.dumps(spec)}"),
        strategy,
    ),
    "callbacks": (only_callbacks, lambda arguments, spec: arguments.file(in_callback(spec)), callbacks),
}


# each strategy once first and once second, through every door; or all pairs
def in_turn(names: list[str]) -> Iterator[tuple[str, str]]:
    yield from zip(names, names[1:] + names[:1], strict=True)
    yield from zip(names, names[3:] + names[:3], strict=True)


def all_pairs(names: list[str]) -> Iterator[tuple[str, str]]:
    yield from permutations(names, 2)


# by default by files, by flags, and in callbacks
SOME = ["files", "flags, one model", "callbacks"]


@pytest.mark.parametrize("pairs", [in_turn, pytest.param(all_pairs, marks=pytest.mark.long)])
def test_second_strategy_is_as_if_it_were_alone(pairs: Any, tmp_path: Path, subtests: pytest.Subtests) -> None:
    for door, (make_parser, say, read) in DOORS.items():
        if pairs is in_turn and door not in SOME:
            continue
        parser = make_parser()

        def parse(*names: str) -> Any:
            arguments = Arguments(tmp_path)
            for name in names:
                say(arguments, STRATEGIES[name])  # noqa: B023  # called within the same iteration
            return read(parser.parse_args(arguments))  # noqa: B023

        names = list(STRATEGIES if door == "files" else ("grad_drop", "grad_drop_again", "cosine", "list", "named"))
        with subtests.test(door=door):
            expected = {name: parse(name) for name in names}
            assert len({json.dumps(config) for config in expected.values()}) == len(names)
            for first, second in pairs(names):
                assert parse(first, second) == expected[second], f"{first} shows through {second}"


def test_default_of_the_model_does_not_show_through(tmp_path: Path, subtests: pytest.Subtests) -> None:
    with_default, without = one_model(TaskWithDefault), one_model()
    for name, spec in STRATEGIES.items():
        with subtests.test(name=name):
            arguments = Arguments(tmp_path).file(in_one(spec))
            assert strategy(with_default.parse_args(arguments)) == strategy(without.parse_args(arguments))


def test_jsonargparse_alone_merges(arguments: Arguments) -> None:
    """When this fails, jsonargparse replaces by itself, and the first section of the parser can go."""
    arguments.file(in_any(STRATEGIES["grad_drop"])).file(in_any({"class_path": "LayerGradDrop", "init_args": {}}))
    init_args = strategy(any_model(LightningArgumentParser).parse_args(arguments))["init_args"]
    assert (init_args["rate"], init_args["seed"]) == (0.3, 9)


def test_empty_overlay_inherits_nothing(tmp_path: Path) -> None:
    parser = any_model()
    for overlay in ({"class_path": "LayerGradDrop", "init_args": {}}, {"class_path": "LayerGradDrop"}):
        arguments = Arguments(tmp_path).file(in_any(STRATEGIES["grad_drop"])).file(in_any(overlay))
        with pytest.raises(Exception, match="required: rate"):
            parser.parse_args(arguments)


def test_same_class_named_again_starts_anew(arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"])).file(in_any(STRATEGIES["grad_drop_again"]))
    init_args = strategy(any_model().parse_args(arguments))["init_args"]
    assert (init_args["rate"], init_args["seed"]) == (0.2, None)


def test_flag_that_names_a_class_replaces_files_and_flags(tmp_path: Path, subtests: pytest.Subtests) -> None:
    parser = any_model()
    expected = alone({"class_path": "LayerGradDrop", "init_args": {"rate": 0.1}}, tmp_path)
    for naming in (
        "--model.gradient_transform=LayerGradDrop",
        "--model.gradient_transform LayerGradDrop",
        "--model.gradient_transform.class_path LayerGradDrop",
        "--model.init_args.gradient_transform.class_path=LayerGradDrop",
        "--model.gradient_transform=lightning_sparsegrad.LayerGradDrop",
    ):
        with subtests.test(naming=naming):
            arguments = Arguments(tmp_path).file(in_any(STRATEGIES["grad_drop"]))
            arguments.flags("--model.gradient_transform.rescale=true", *naming.split())
            assert strategy(parser.parse_args([*arguments, "--model.gradient_transform.rate=0.1"])) == expected


def test_callback_named_anew_inherits_no_transform(arguments: Arguments) -> None:
    arguments.file(in_callback(STRATEGIES["grad_drop"]))
    arguments.file({"callbacks": [{"class_path": "ModelCheckpoint"}, {"class_path": f"{__name__}.HoldsOptionally"}]})
    _, holder = callbacks(only_callbacks().parse_args(arguments))
    assert holder["init_args"] == {"gradient_transform": None, "every": 1}


def test_flag_reaches_the_transform_of_the_last_callback(arguments: Arguments) -> None:
    arguments.file(in_callback(STRATEGIES["grad_drop"]))
    arguments.flags("--callbacks.gradient_transform=LayerGradDrop", "--callbacks.gradient_transform.rate=0.6")
    checkpoint, holder = callbacks(only_callbacks().parse_args(arguments))
    assert checkpoint["class_path"].endswith("ModelCheckpoint")
    assert holder["init_args"]["gradient_transform"] == alone(MASK, arguments.folder)


def test_callbacks_without_transforms_are_merged_as_ever(arguments: Arguments) -> None:
    arguments.file({"callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"monitor": "loss"}}]})
    arguments.file({"callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"save_top_k": 2}}]})
    (checkpoint,) = callbacks(only_callbacks().parse_args(arguments))
    assert (checkpoint["init_args"]["monitor"], checkpoint["init_args"]["save_top_k"]) == ("loss", 2)


def test_function_that_returns_a_transform_is_replaced_too(arguments: Arguments) -> None:
    arguments.file(in_any({"class_path": f"{__name__}.recipe", "init_args": {"rate": 0.5, "seed": 3}}))
    arguments.file(in_any({"class_path": f"{__name__}.recipe", "init_args": {"rate": 0.4}}))
    assert strategy(any_model().parse_args(arguments))["init_args"] == {"rate": 0.4, "seed": None}


def test_model_named_anew_keeps_the_strategy_that_no_one_replaced(arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"])).file({"model": {"class_path": f"{__name__}.OtherTask"}})
    config = any_model().parse_args(arguments)
    assert config.model.class_path.endswith("OtherTask")
    assert strategy(config) == alone(STRATEGIES["grad_drop"], arguments.folder)


def test_model_named_anew_with_a_strategy_has_that_alone(arguments: Arguments) -> None:
    overlay = in_any(STRATEGIES["grad_drop_again"])
    overlay["model"]["class_path"] = f"{__name__}.OtherTask"
    arguments.file(in_any(STRATEGIES["grad_drop"])).file(overlay)
    assert strategy(any_model().parse_args(arguments)) == alone(STRATEGIES["grad_drop_again"], arguments.folder)


def test_strategy_in_a_file_of_its_own_beside_the_config(arguments: Arguments) -> None:
    (arguments.folder / "strategy.yaml").write_text(yaml.safe_dump(STRATEGIES["grad_drop_again"]))
    arguments.file(in_one(STRATEGIES["grad_drop"])).file(in_one("strategy.yaml"))
    assert strategy(one_model().parse_args(arguments)) == alone(STRATEGIES["grad_drop_again"], arguments.folder)
