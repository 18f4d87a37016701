"""The gradient statistics of a fit: shares of the last window, logged when the loggers are due."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, GradientEngine, Identity, LayerGradDrop, ValueClip
from tests.cases import cases

from .tasks import DOORS, SEED, STRATEGIES, Recording, Regression, door_of, fit, loader

pytestmark = pytest.mark.parametrize("door", DOORS)


class Watched(Recording):
    """Notes the step at which somebody asks for its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    @property
    def statistics(self) -> dict[str, Tensor]:
        self.asked.append(self.windows[-1][0])
        return {"watched": torch.ones(())}


class Bounded(Identity):
    """Has a threshold for everything together, and one for a component."""

    @property
    def statistics(self) -> dict[str, Tensor]:
        return {"threshold": torch.ones(()), "threshold/network.head.bias": torch.ones(())}


@cases(
    ("arguments", "expected"),
    [
        ({"log_every_n_steps": 1}, [0, 1, 2, 3, 4, 5, 6]),
        ({"log_every_n_steps": 3}, [2, 5, 6]),
        ({"log_every_n_steps": 50}, [6]),
        ({"log_every_n_steps": 0}, [6]),
        ({"log_every_n_steps": 2, "accumulate_grad_batches": 3}, [1, 2]),
        ({"log_every_n_steps": 4, "max_epochs": 2}, [3, 6, 7, 11, 13]),
    ],
    ids=str,
)
def test_statistics_are_computed_only_when_the_loggers_are_due(
    door: str, arguments: dict[str, Any], expected: list[int]
) -> None:
    watched = door_of(fit(door, Watched(), **arguments)).gradient_engine.transform
    assert isinstance(watched, Watched)
    assert watched.asked == expected


def test_shares_are_those_of_the_last_window(door: str) -> None:
    run = fit(door, STRATEGIES["mask and clip"])
    task = Regression()
    engine, optimizer = GradientEngine(task, STRATEGIES["mask and clip"], seed=SEED), task.configure_optimizers()
    for step, batch in enumerate(loader()):
        optimizer.zero_grad()
        with engine.window(step):
            torch.autograd.backward(task.loss(batch))
            engine.apply_()
        optimizer.step()
    entries = torch.cat([parameter.grad.flatten() for parameter in task.parameters() if parameter.grad is not None])
    shares = {name: value for name, value in run.callback_metrics.items() if name.startswith("gradient/")}
    assert set(shares) == {"gradient/kept", "gradient/clipped"}
    assert float(shares["gradient/kept"]) == pytest.approx(float((entries != 0).float().mean()))
    assert float(shares["gradient/clipped"]) == pytest.approx(float(engine.statistics["clipped"]))
    assert float(shares["gradient/clipped"]) > 0


@cases(
    ("transform", "expected"),
    [
        (Identity(), set()),
        (GradDrop(0.5), {"gradient/kept"}),
        (LayerGradDrop(0.5), {"gradient/kept"}),
        (ValueClip(0.1), {"gradient/clipped"}),
        (Bounded(), {"gradient/threshold"}),
        (
            Chain({"norm_clip": ComponentNormClip(0.1), "value_clip": ValueClip(0.1)}),
            {"gradient/norm_clip/clipped", "gradient/value_clip/clipped"},
        ),
        (
            Chain({"mask": GradDrop(0.5), "both": Chain([LayerGradDrop(0.5), ComponentNormClip(0.1)])}),
            {"gradient/mask/kept", "gradient/both/kept", "gradient/clipped"},
        ),
    ],
    ids=repr,
)
def test_every_share_has_a_name_and_numbers_of_each_component_are_left_out(
    door: str, transform: Any, expected: set[str]
) -> None:
    metrics = fit(door, transform).callback_metrics
    assert {name for name in metrics if name.startswith("gradient/")} == expected


def test_a_logger_gets_the_shares_of_the_steps_it_is_due_at(door: str, tmp_path: Path) -> None:
    fit(door, GradDrop(0.5), logger=CSVLogger(tmp_path, name="", version=""), log_every_n_steps=2)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("gradient/kept")]
    assert [int(row["step"]) for row in rows] == [1, 3, 5]
    assert all(abs(float(row["gradient/kept"]) - 0.5) < 0.1 for row in rows)
