"""Strategies, and the files, flags and parsers that read them."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import lazy_instance
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

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
MASK = {"class_path": "LayerGradDrop", "init_args": {"rate": 0.6}}


class Task(LightningModule):
    def __init__(self, gradient_transform: GradientTransform, width: int = 1) -> None:
        super().__init__()


class TaskWithDefault(LightningModule):
    def __init__(
        self,
        gradient_transform: GradientTransform = lazy_instance(GradDrop, rate=0.3, seed=9),  # noqa: B008  # jsonargparse's
        width: int = 1,
    ) -> None:
        super().__init__()


def plain(value: Any) -> Any:
    """Return a config as plain values, without the paths of its files."""
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
