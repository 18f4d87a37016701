"""A transform named anew replaces the one before it; without a class, files and flags refine."""

import json
from copy import deepcopy
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import lazy_instance
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_sparsegrad import GradDrop, GradientTransform, SparseGradArgumentParser

STRATEGIES: dict[str, dict[str, Any]] = {
    "grad_drop": {"class_path": "GradDrop", "init_args": {"rate": 0.3, "seed": 9}},
    "grad_drop_again": {"class_path": "GradDrop", "init_args": {"rate": 0.2}},
    "layer_grad_drop": {"class_path": "LayerGradDrop", "init_args": {"rate": 0.2}},
    "identity": {"class_path": "Identity", "init_args": {}},
    "linear": {
        "class_path": "GradDrop",
        "init_args": {"rate": {"class_path": "Linear", "init_args": {"start": 0.5, "end": 0.25}}, "rescale": True},
    },
    "cosine": {
        "class_path": "LayerGradDrop",
        "init_args": {"rate": {"class_path": "Cosine", "init_args": {"start": 0.4, "end": 0.0}}},
    },
    "list": {
        "class_path": "Chain",
        "init_args": {
            "transforms": [
                {"class_path": "GradDrop", "init_args": {"rate": 0.1, "seed": 1}},
                {"class_path": "ComponentNormClip", "init_args": {"max_norm": 2.0, "overrides": {"*.bias": 1.0}}},
            ]
        },
    },
    "other_list": {
        "class_path": "Chain",
        "init_args": {
            "transforms": [
                {"class_path": "LayerGradDrop", "init_args": {"rate": 0.1}},
                {"class_path": "ComponentNormClip", "init_args": {"max_norm": 3.0}},
            ]
        },
    },
    "named": {
        "class_path": "Chain",
        "init_args": {
            "transforms": {
                "mask": {
                    "class_path": "GradDrop",
                    "init_args": {"rate": {"class_path": "Linear", "init_args": {"start": 0.7, "end": 0.6}}, "seed": 4},
                },
                "clip": {"class_path": "ComponentNormClip", "init_args": {"max_norm": 2.0, "overrides": {"*.bias": 1}}},
            }
        },
    },
    "other_named": {
        "class_path": "Chain",
        "init_args": {
            "transforms": {
                "mask": {"class_path": "GradDrop", "init_args": {"rate": 0.7}},
                "values": {"class_path": "ValueClip", "init_args": {"max_value": 2.0}},
            }
        },
    },
}


class Task(LightningModule):
    def __init__(self, gradient_transform: GradientTransform, width: int = 1) -> None:
        super().__init__()


class OtherTask(Task):
    pass


class TaskWithDefault(LightningModule):
    def __init__(
        self,
        gradient_transform: GradientTransform = lazy_instance(GradDrop, rate=0.3, seed=9),  # noqa: B008  # jsonargparse's
        width: int = 1,
    ) -> None:
        super().__init__()


class HoldsOptionally(Callback):
    def __init__(self, gradient_transform: GradientTransform | None = None, every: int = 1) -> None:
        pass


def recipe(rate: float = 0.1, *, seed: int | None = None) -> GradDrop:
    return GradDrop(rate, seed=seed)


def plain(value: Any) -> Any:
    """What a config says, without where it was read."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items() if key != "__path__"}
    return [plain(entry) for entry in value] if isinstance(value, list) else value


class Arguments(list[str]):
    """Command line arguments that write the files they name."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def file(self, content: Any, *, flag: str = "--config") -> "Arguments":
        path = self.folder / f"{len(self)}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        self.extend([flag, str(path)])
        return self

    def flags(self, *flags: str) -> "Arguments":
        self.extend(flags)
        return self


@pytest.fixture
def arguments(tmp_path: Path) -> Arguments:
    return Arguments(tmp_path)


def any_model(parser_class: type[LightningArgumentParser] = SparseGradArgumentParser) -> LightningArgumentParser:
    parser = parser_class(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.set_defaults({"model": {"class_path": f"{__name__}.Task"}})
    return parser


def one_model(model: type[LightningModule] = Task) -> LightningArgumentParser:
    parser = SparseGradArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(model, "model")
    return parser


def only_callbacks() -> LightningArgumentParser:
    parser = SparseGradArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--callbacks", type=list[Callback] | Callback | None, default=None)
    return parser


def strategy(config: Namespace) -> Any:
    model = config["model"]
    return plain(model.get("init_args", model)["gradient_transform"])


def callbacks(config: Namespace) -> Any:
    return plain(config["callbacks"])


def alone(spec: dict[str, Any], folder: Path) -> Any:
    return strategy(any_model().parse_args(Arguments(folder).file(in_any(spec))))


def in_any(spec: Any) -> dict[str, Any]:
    return {"model": {"init_args": {"gradient_transform": spec}}}


def in_one(spec: Any) -> dict[str, Any]:
    return {"model": {"gradient_transform": spec}}


def in_callback(spec: Any) -> dict[str, Any]:
    holder = {"class_path": "GradientTransformCallback", "init_args": {"gradient_transform": spec}}
    return {"callbacks": [{"class_path": "ModelCheckpoint"}, holder]}


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


@pytest.mark.parametrize("door", DOORS)
def test_second_strategy_is_as_if_it_were_alone(door: str, tmp_path: Path) -> None:
    make_parser, say, read = DOORS[door]
    parser = make_parser()

    def parse(*names: str) -> Any:
        arguments = Arguments(tmp_path)
        for name in names:
            say(arguments, STRATEGIES[name])
        return read(parser.parse_args(arguments))

    names = STRATEGIES if door == "files" else ("grad_drop", "grad_drop_again", "cosine", "list", "named")
    expected = {name: parse(name) for name in names}
    assert len({json.dumps(config) for config in expected.values()}) == len(names)
    for first, second in permutations(names, 2):
        assert parse(first, second) == expected[second], f"{first} shows through {second}"


@pytest.mark.parametrize("name", STRATEGIES)
def test_default_of_the_model_does_not_show_through(name: str, arguments: Arguments) -> None:
    arguments.file(in_one(STRATEGIES[name]))
    assert strategy(one_model(TaskWithDefault).parse_args(arguments)) == strategy(one_model().parse_args(arguments))


def test_jsonargparse_alone_merges(arguments: Arguments) -> None:
    """The reason for the parser; when this fails, jsonargparse replaces and its first section can go."""
    arguments.file(in_any(STRATEGIES["grad_drop"])).file(in_any({"class_path": "LayerGradDrop", "init_args": {}}))
    init_args = strategy(any_model(LightningArgumentParser).parse_args(arguments))["init_args"]
    assert (init_args["rate"], init_args["seed"]) == (0.3, 9)


@pytest.mark.parametrize("overlay", [{"class_path": "LayerGradDrop", "init_args": {}}, {"class_path": "LayerGradDrop"}])
def test_empty_overlay_inherits_nothing(overlay: dict[str, Any], arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"])).file(in_any(overlay))
    with pytest.raises(Exception, match="required: rate"):
        any_model().parse_args(arguments)


def test_same_class_named_again_starts_anew(arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"])).file(in_any(STRATEGIES["grad_drop_again"]))
    init_args = strategy(any_model().parse_args(arguments))["init_args"]
    assert (init_args["rate"], init_args["seed"]) == (0.2, None)


@pytest.mark.parametrize(
    "naming",
    [
        ["--model.gradient_transform=LayerGradDrop"],
        ["--model.gradient_transform", "LayerGradDrop"],
        ["--model.gradient_transform.class_path", "LayerGradDrop"],
        ["--model.init_args.gradient_transform.class_path=LayerGradDrop"],
        ["--model.gradient_transform=lightning_sparsegrad.LayerGradDrop"],
    ],
    ids=" ".join,
)
def test_flag_that_names_a_class_replaces_files_and_flags(naming: list[str], arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"])).flags("--model.gradient_transform.rescale=true")
    config = any_model().parse_args(arguments.flags(*naming, "--model.gradient_transform.rate=0.1"))
    assert strategy(config) == alone({"class_path": "LayerGradDrop", "init_args": {"rate": 0.1}}, arguments.folder)


@pytest.mark.parametrize(
    "refinement",
    [
        {"init_args": {"rate": 0.4}},
        {"rate": 0.4},
        {"init_args.rate": 0.4},
    ],
    ids=str,
)
def test_file_without_a_class_refines(refinement: dict[str, Any], arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"])).file(in_any(refinement))
    init_args = strategy(any_model().parse_args(arguments))["init_args"]
    assert (init_args["rate"], init_args["seed"]) == (0.4, 9)


def test_flag_without_a_class_refines(arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"])).flags("--model.gradient_transform.rate=0.4")
    init_args = strategy(any_model().parse_args(arguments))["init_args"]
    assert (init_args["rate"], init_args["seed"]) == (0.4, 9)


def test_file_of_a_transform_without_a_class_refines(arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"]))
    arguments.file({"init_args": {"rate": 0.4}}, flag="--model.gradient_transform")
    init_args = strategy(any_model().parse_args(arguments))["init_args"]
    assert (init_args["rate"], init_args["seed"]) == (0.4, 9)


def test_schedule_named_anew_replaces_the_schedule_alone(arguments: Arguments) -> None:
    schedule = {"class_path": "Cosine", "init_args": {"start": 0.9}}
    arguments.file(in_any(STRATEGIES["linear"])).file(in_any({"init_args": {"rate": schedule}}))
    with pytest.raises(Exception, match="required: end"):  # 0.25 was the end of the linear one
        any_model().parse_args(arguments)
    init_args = strategy(any_model().parse_args(arguments.flags("--model.gradient_transform.rate.end=0.1")))[
        "init_args"
    ]
    assert init_args["rescale"] is True
    assert init_args["rate"]["init_args"]["start"] == 0.9


def test_schedule_named_by_a_flag_replaces_the_schedule(arguments: Arguments) -> None:
    rate = "--model.gradient_transform.rate"
    arguments.file(in_any(STRATEGIES["linear"])).flags(f"{rate}=Cosine", f"{rate}.start=0.9")
    with pytest.raises(Exception, match="required: end"):
        any_model().parse_args(arguments)


def mask_and_clip(config: Namespace) -> tuple[Any, Any]:
    transforms = strategy(config)["init_args"]["transforms"]
    assert list(transforms) == ["mask", "clip"]
    return transforms["mask"], transforms["clip"]


@pytest.mark.parametrize(
    ("flag", "changed"),
    [
        ("mask.rate=0.6", {"rate": 0.6}),
        ("mask.init_args.rate=0.6", {"rate": 0.6}),
        ("mask.seed=5", {"seed": 5}),
        ("mask.rate.end=0.1", {"rate.end": 0.1}),
        ("mask.init_args.rate.init_args.end=0.1", {"rate.end": 0.1}),
    ],
)
def test_every_argument_in_a_named_chain_has_an_address(
    flag: str, changed: dict[str, Any], arguments: Arguments
) -> None:
    arguments.file(in_any(STRATEGIES["named"]))
    mask, clip = mask_and_clip(any_model().parse_args(arguments))
    for name, value in changed.items():
        head, _, rest = name.partition(".")
        if rest:
            mask["init_args"][head]["init_args"][rest] = value
        else:
            mask["init_args"][head] = value
    refined = any_model().parse_args(arguments.flags(f"--model.gradient_transform.transforms.{flag}"))
    assert mask_and_clip(refined) == (mask, clip)


MASK = {"class_path": "LayerGradDrop", "init_args": {"rate": 0.6}}


@pytest.mark.parametrize("by", ["file", "flag", "class_path flag"])
def test_named_part_of_a_chain_is_replaced_in_its_place(by: str, arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["named"]))
    _, clip = mask_and_clip(any_model().parse_args(arguments))
    address = "--model.gradient_transform.transforms.mask"
    if by == "file":
        arguments.file(in_any({"init_args": {"transforms": {"mask": MASK}}}))
    elif by == "flag":
        arguments.flags(f"{address}=LayerGradDrop", f"{address}.rate=0.6")
    else:
        arguments.flags(f"{address}.class_path", "LayerGradDrop", f"{address}.rate", "0.6")
    assert mask_and_clip(any_model().parse_args(arguments)) == (alone(MASK, arguments.folder), clip)


def test_named_part_of_a_chain_is_refined_by_a_file(arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["named"]))
    mask, clip = mask_and_clip(any_model().parse_args(arguments))
    arguments.file(in_any({"init_args": {"transforms": {"mask": {"init_args": {"rate": 0.6}}}}}))
    mask["init_args"]["rate"] = 0.6
    assert mask_and_clip(any_model().parse_args(arguments)) == (mask, clip)


def test_part_of_a_list_is_replaced_in_its_place(arguments: Arguments) -> None:
    refined_and_replaced = [{"init_args": {"rate": 0.9}}, MASK]
    arguments.file(in_any(STRATEGIES["list"])).file(in_any({"init_args": {"transforms": refined_and_replaced}}))
    drop, mask = strategy(any_model().parse_args(arguments))["init_args"]["transforms"]
    assert (drop["init_args"]["rate"], drop["init_args"]["seed"]) == (0.9, 1)
    assert mask == alone(MASK, arguments.folder)


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


# ------------------------------------------------------------ LightningCLI, by `parser_class` alone
class UsersCLI(LightningCLI):
    """A command line of somebody else, who wants its config alone."""

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
    return {"model": {"class_path": f"{__name__}.Task", **model["model"]}}


@pytest.fixture(autouse=True)
def no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["users_cli"])  # LightningCLI warns of arguments beside `args=`


@pytest.mark.parametrize("model", [None, Task], ids=["any model", "one model"])
@pytest.mark.parametrize("run", [True, False], ids=["subcommands", "no subcommands"])
@pytest.mark.parametrize("where", ["files", "dict over default", "file over default", "file before the flags"])
def test_users_command_line(model: type[LightningModule] | None, run: bool, where: str, arguments: Arguments) -> None:
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
            given.flags(*[] if model else [f"--model={__name__}.Task"])
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
