"""Configs of 0.1, and the objects that they stand for."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torchmetrics import Metric

import lightning_sparsegrad
from lightning_sparsegrad import GradientTransform, Schedule, SparseGradArgumentParser, SparseGradCLI

FOLDER = Path(__file__).parent / "configs"
STRATEGIES = [*sorted((FOLDER / "gradient").glob("*.yaml")), FOLDER / "arguments.yaml"]
COMMAND = FOLDER / "command.yaml"
_OURS = lightning_sparsegrad.__name__
_CLASSES = (GradientTransform, Schedule, Callback, LightningModule, LightningDataModule, Metric)


class Holder(LightningModule):
    """Takes a strategy."""

    def __init__(self, gradient_transform: GradientTransform) -> None:
        super().__init__()
        self.gradient_transform = gradient_transform


class ParsedOnly(SparseGradCLI):
    """Stops after parsing."""

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def paths() -> dict[str, list[str]]:
    """Return all importable paths of each public class that a config may name, by the path of its definition."""
    recorded: dict[str, set[str]] = {}
    for name in [_OURS, *(info.name for info in pkgutil.walk_packages(lightning_sparsegrad.__path__, f"{_OURS}."))]:
        module = importlib.import_module(name)
        exported = set(getattr(module, "__all__", ()))
        for key, member in [*vars(module).items(), *((key, getattr(module, key)) for key in exported)]:
            if not inspect.isclass(member) or key.startswith("_") or not member.__module__.startswith(_OURS):
                continue
            if key in exported or (member.__module__ == name and issubclass(member, _CLASSES)):
                recorded.setdefault(_own(member), {_own(member)}).add(f"{name}.{key}")
    return {own: sorted(known) for own, known in recorded.items()}


def at(path: str) -> Any:
    """Import what a path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def forms(text: str, names: Mapping[str, str]) -> Iterator[str]:
    """Yield a config with classes by short names, by names in the package, and by the paths of their definitions.

    Args:
        text: The config, with short names.
        names: Short name to the path of the definition, in 0.1.
    """
    yield text
    for long in ({name: f"{_OURS}.{name}" for name in names}, names):
        lines = [line.split("class_path: ") for line in text.splitlines()]
        yield "\n".join("class_path: ".join([*first, long.get(last, last)]) for *first, last in lines)


def strategy(text: str) -> Any:
    """Build the strategy of a config; return what is known of it."""
    parser = SparseGradArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    config = yaml.safe_load(text)
    config["model"]["class_path"] = f"{__name__}.Holder"
    return described(parser.instantiate_classes(parser.parse_object(config))["model"].gradient_transform)


def command(text: str, folder: Path) -> Any:
    """Parse a config as the command line does; return what it says, with all defaults, and classes by name."""
    path = folder / "command.yaml"
    path.write_text(text)
    cli = ParsedOnly(args=["fit", f"--config={path}", "--seed_everything=false"])
    config = yaml.safe_load(cli.parser.dump(cli.config, skip_validation=True, skip_unset=False))["fit"]
    config["trainer"] = {"callbacks": config["trainer"]["callbacks"]}
    return _short({name: config[name] for name in ("model", "data", "trainer")})


def described(value: Any) -> Any:
    """Return a value as JSON; of an object of the library, its class and the arguments that it was made of."""
    if isinstance(value, Mapping):
        return {str(key): described(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [described(entry) for entry in value]
    if not type(value).__module__.startswith(_OURS):
        return repr(value)
    arguments = {name: getattr(value, name) for name in inspect.signature(type(value)).parameters}
    return {"class": type(value).__name__, "repr": repr(value), "arguments": described(arguments)}


def _own(member: type) -> str:
    return f"{member.__module__}.{member.__qualname__}"


def _short(config: Any) -> Any:
    if isinstance(config, list):
        return [_short(entry) for entry in config]
    if not isinstance(config, dict):
        return config
    return {key: value.rpartition(".")[2] if key == "class_path" else _short(value) for key, value in config.items()}
