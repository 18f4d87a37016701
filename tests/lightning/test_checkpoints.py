"""A resumed fit equals an uninterrupted one, and a checkpoint holds nothing but numbers and tensors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    GradDrop,
    GradientTransform,
    GradualUnfreezing,
    LayerGradDrop,
    Linear,
)
from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.transforms.base import Gradients, Window

from .tasks import (
    DOORS,
    SEED,
    STRATEGIES,
    Regression,
    Resumable,
    Weights,
    assert_same_weights,
    door_of,
    fit,
    loader,
    some_long,
    through,
    trainer,
    weights,
)

KEY = "lightning_sparsegrad"


class Shrinking(GradientTransform):
    """A strategy with a state: every gradient is divided by the number of windows and a running mean of norms."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.ones(())

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        self.count += 1
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        self.mean = 0.9 * self.mean + 0.1 * norm
        for gradient in gradients.values():
            gradient.div_(self.count * self.mean)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.mean = state["count"], state["mean"]


RESUMED: dict[str, GradientTransform] = {
    **STRATEGIES,
    "rate over training": Chain({"mask": GradDrop(Linear(0.9, 0.1)), "clip": ComponentNormClip(0.02)}),
    "unfreezing": GradualUnfreezing(),
    "state": Chain({"mask": GradDrop(0.5), "shrink": Shrinking()}),
}
ALIKE = ("clip and mask", "head", "tensors")  # have no state that another of these has not


def start(door: str, transform: GradientTransform, folder: Path, data: Any = None, **arguments: Any) -> Trainer:
    """Train two epochs of four windows each, with a checkpoint behind every one of them."""
    every_step = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    every_epoch = ModelCheckpoint(folder, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    return fit(
        door,
        transform,
        data=Resumable() if data is None else data,
        **{"accumulate_grad_batches": 2, "max_epochs": 2, "enable_checkpointing": True, **arguments},
        callbacks=[every_step, every_epoch],
    )


def go_on(door: str, transform: GradientTransform, path: Path, data: Any = None, **arguments: Any) -> Trainer:
    task, callbacks = through(door, transform)
    arguments = {"accumulate_grad_batches": 2, "max_epochs": 2, **arguments}
    run = trainer(callbacks=callbacks, **arguments)
    run.fit(task, Resumable() if data is None else data, ckpt_path=path)
    return run


def momenta(run: Trainer) -> Weights:
    """Return what the optimizer remembers."""
    (optimizer,) = run.optimizers
    states = optimizer.state_dict()["state"]
    return {f"{index} {name}": value for index, state in states.items() for name, value in state.items()}


def contents(value: Any) -> Iterator[Any]:
    """Yield everything that is neither a list nor a dict, and all keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from contents(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from contents(inner)
    else:
        yield value


pytestmark = [
    pytest.mark.parametrize("door", DOORS),
    # the resumed runs save nothing, so they bring no ModelCheckpoint
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


@pytest.mark.parametrize("strategy", some_long(RESUMED, ALIKE))
def test_a_resumed_fit_trains_the_same_weights(
    door: str, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(door, RESUMED[strategy], tmp_path)
    assert whole.global_step == 8
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    for name in ("step=1", "step=3", "step=4", "epoch=0", "step=6"):
        resumed = go_on(door, RESUMED[strategy], tmp_path / f"{name}.ckpt")
        assert resumed.global_step == 8
        assert door_of(resumed).gradient_engine.seed == SEED
        assert_same_weights(weights(resumed), weights(whole))
        assert_same_weights(momenta(resumed), momenta(whole))


def test_a_fit_with_another_seed_trains_other_weights(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights(fit(door, STRATEGIES["layers"]))
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    assert any(
        not torch.equal(weight, whole[name]) for name, weight in weights(fit(door, STRATEGIES["layers"])).items()
    )


def test_an_ordinary_loader_resumes_between_epochs(door: str, tmp_path: Path) -> None:
    whole = start(door, RESUMED["rate over training"], tmp_path, loader())
    resumed = go_on(door, RESUMED["rate over training"], tmp_path / "epoch=0.ckpt", loader())
    assert_same_weights(weights(resumed), weights(whole))


def test_resuming_under_a_gradient_scaler(door: str, tmp_path: Path) -> None:
    def half() -> dict[str, Any]:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=3)
        return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}

    whole = start(door, STRATEGIES["mask and clip"], tmp_path, **half())
    resumed = go_on(door, STRATEGIES["mask and clip"], tmp_path / "step=5.ckpt", **half())
    assert_same_weights(weights(resumed), weights(whole))


def test_checkpoints_hold_numbers_and_tensors_under_keys_of_our_own(door: str, tmp_path: Path) -> None:
    start(door, RESUMED["state"], tmp_path)
    checkpoint = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    assert checkpoint[KEY]["seed"] == SEED
    assert checkpoint[KEY]["transform"]["shrink"]["count"] == 3
    assert {type(value) for value in contents(checkpoint[KEY])} <= {str, int, float, bool, Tensor}
    plain = trainer()
    plain.fit(Regression(), loader())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    assert set(checkpoint) - set(torch.load(tmp_path / "plain.ckpt", weights_only=True)) == {KEY, f"{KEY}_optimizers"}


def test_the_other_door_goes_on(door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (other,) = set(DOORS) - {door}
    whole = start(door, RESUMED["state"], tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    resumed = go_on(other, RESUMED["state"], tmp_path / "step=3.ckpt")
    assert_same_weights(weights(resumed), weights(whole))


def test_a_checkpoint_of_a_fit_without_us_can_be_gone_on_from(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(door, STRATEGIES["layers"], tmp_path)
    checkpoint = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    del checkpoint[KEY]
    torch.save(checkpoint, tmp_path / "without.ckpt")
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    resumed = go_on(door, LayerGradDrop(0.5), tmp_path / "without.ckpt")
    assert resumed.global_step == 8
    assert door_of(resumed).gradient_engine.seed == 99


def test_a_new_fit_from_tested_weights_has_its_own_seed(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(door, RESUMED["state"], tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    task, callbacks = through(door, RESUMED["state"])
    run = trainer(callbacks=callbacks)
    run.test(task, loader(), ckpt_path=tmp_path / "step=3.ckpt", verbose=False)
    run.fit(task, loader())
    assert door_of(run).gradient_engine.seed == 99
    shrink = door_of(run).gradient_engine.transform.transforms["shrink"]  # type: ignore[attr-defined]
    assert shrink.count == run.global_step == 7


def test_a_new_fit_from_loaded_weights_has_its_own_seed(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(door, GradDrop(0.5), tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    arguments: dict[str, Any] = {"gradient_transform": GradDrop(0.5)} if door == "module" else {}
    task = type(whole.lightning_module).load_from_checkpoint(tmp_path / "step=8.ckpt", **arguments)
    assert_same_weights(weights(task), weights(whole))
    run = trainer(callbacks=through(door, GradDrop(0.5))[1])
    run.fit(task, loader())
    assert door_of(run).gradient_engine.seed == 99
