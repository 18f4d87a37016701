"""Good command lines of each kind, to be corrupted, with a tiny model, a few rows and every strategy."""

import inspect
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_sparsegrad import Schedule
from tests.data.helpers import LABELS, SENTENCES, save_tokenizer
from tests.strategies import SCHEDULES, STRATEGIES, overlay_name, spec_in
from tests.tiny import tiny_bert

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
PLACEHOLDER = "__PLACE__"  # where the text of a bad value goes
SHORT = {
    "max_steps": 2,
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
"""Of the Trainer: a fit that is quick, and writes nothing."""
ROWS = "text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(SENTENCES, LABELS, strict=True))
KINDS: dict[str, type] = {kind.__name__: kind for kind in (*STRATEGIES, *SCHEDULES)}
"""Every strategy and every schedule."""


def save_model(folder: Path) -> str:
    """Save a tiny model with its tokenizer, and return the path."""
    tiny_bert().bert.save_pretrained(folder)  # type: ignore[operator,union-attr]  # without a head
    return save_tokenizer(folder, {"pad_token": "[PAD]"})


def checkpoints() -> dict[str, bytes]:
    """Return files that are not checkpoints, half of one, and one of another model."""
    whole = _saved(
        {
            "state_dict": {"x": torch.zeros(3)},
            "pytorch-lightning_version": "2.6.6",
            "epoch": 0,
            "global_step": 0,
            "loops": {},
            "optimizer_states": [],
            "lr_schedulers": [],
        }
    )
    return {
        "list.ckpt": _saved([1, 2]),
        "number.ckpt": _saved(3),
        "half.ckpt": whole[: len(whole) // 2],
        "other.ckpt": whole,
        "keys.ckpt": _saved({"state_dict": {}, "lightning_sparsegrad_config": 3, "hyper_parameters": [1]}),
    }


def _saved(value: Any) -> bytes:
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def task(model: str) -> dict[str, Any]:
    """Return a config with an argument of every kind that trains for two steps."""
    transforms = {"mask": spec("GradDrop", rate=0.2), "clip": spec("ComponentNormClip", max_norm=0.05)}
    return {
        "seed_everything": 0,
        "model": spec(
            "SequenceClassification",
            model_name_or_path=model,
            gradient_transform=spec("Chain", transforms=transforms),
            optimizer=spec("torch.optim.AdamW", lr=2e-4, weight_decay=0.01),
            lr_scheduler=spec("lightning_sparsegrad.modules.LinearDecay", warmup=0.1),
        ),
        "data": spec(
            "TextDataModule",
            data_files={"train": "train.csv", "validation": "train.csv"},
            text_columns="text",
            label_column="label",
            batch_size=4,
            max_length=16,
        ),
        "trainer": {
            **SHORT,
            "callbacks": [{"class_path": "ModelSummary", "init_args": {"max_depth": 1}}],
        },
    }


def spec(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def good_arguments(kind: str) -> dict[str, Any]:
    """Return accepted arguments: those of its overlay for a strategy, and 0.5 for required ones of a schedule."""
    if not issubclass(KINDS[kind], Schedule):
        return dict(spec_in(overlay_name(KINDS[kind])).get("init_args", {}))
    parameters = inspect.signature(KINDS[kind]).parameters.values()
    return {parameter.name: 0.5 for parameter in parameters if parameter.default is parameter.empty}


def strategy(kind: str, **init_args: Any) -> dict[str, Any]:
    """Return an overlay that names a strategy; a schedule as the rate of a `GradDrop`."""
    named = spec(kind, **{**good_arguments(kind), **init_args})
    if issubclass(KINDS[kind], Schedule):
        named = spec("GradDrop", rate=named)
    return {"model": {"init_args": {"gradient_transform": named}}}


@cache
def arguments_of_strategies() -> tuple[tuple[str, str], ...]:
    """Return every argument of every strategy and every schedule."""
    return tuple((name, parameter) for name in sorted(KINDS) for parameter in inspect.signature(KINDS[name]).parameters)


def to_yaml(config: Any, value: str = "") -> bytes:
    """Write a config, with the text of a value in its place."""
    return (
        yaml.dump(config, Dumper=_DUMPER, sort_keys=False).replace(PLACEHOLDER, value).encode("utf-8", "surrogatepass")
    )


def paths_in(config: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every entry of a config, including nested ones."""
    entries = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from paths_in(value, (*path, key))
