"""A study of a task that trains in a moment."""

from pathlib import Path
from typing import Any

import yaml

from tests.command_line import LABELLED, READER

BASE: dict[str, Any] = {
    "model": READER.partition("=")[2],
    "model.gradient_transform": "Identity",
    "data": LABELLED.partition("=")[2],
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_model_summary": False,
}
DROP = {"model.gradient_transform": "GradDrop", "model.gradient_transform.rate": 0.5}


def study(**changes: Any) -> dict[str, Any]:
    arms = {"plain": [], "drop": [DROP], "broken": [{"model.fault": "step"}]}
    arguments = {"base": [BASE], "arms": arms, "seeds": 2, "metric": "val/loss", "mode": "min", "gradients_every": 1}
    return {**arguments, **changes}


def write(folder: Path, **changes: Any) -> str:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(study(**changes), sort_keys=False))
    return str(path)
