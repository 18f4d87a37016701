"""Lightning's weight averages are the same as without this library, and are in the checkpoints that follow them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_sparsegrad import ExactResume, GradientTransformCallback, HeadOnly, Identity, SparseMask
from tests.lightning.tasks import DOORS, Regression, assert_same_weights, loader, through, trainer, weights

AVERAGING: dict[str, Callable[[], Callback]] = {
    "swa": lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2),
    "ema": lambda: EMAWeightAveraging(decay=0.9),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* module.* in eval mode"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback"),
]


class Normed(Regression):
    """Has batch norms, for whose statistics Lightning passes over the data once more."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = nn.BatchNorm1d(8)

    def loss(self, batch: Any) -> Tensor:
        return super().loss([self.norm(batch[0]), batch[1]])


def run(kind: type[Regression], averaging: Callback, folder: Path, door: str | None, **arguments: Any) -> Any:
    task, callbacks = through(door, Identity(), kind) if door else (kind(), [])
    # nothing is saved before the end
    last = ModelCheckpoint(folder, every_n_epochs=99, save_last=True)
    extra = [ExactResume()] if door else []
    fitting = trainer(max_epochs=4, callbacks=[*callbacks, *extra, averaging, last], enable_checkpointing=True)
    fitting.fit(task, loader(), loader(2) if arguments.pop("validates", True) else None)
    return task, torch.load(folder / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", AVERAGING)
@pytest.mark.parametrize("kind", [Regression, Normed])
def test_they_are_lightnings_and_the_last_checkpoint_holds_them(
    kind: type[Regression], name: str, door: str, tmp_path: Path
):
    plain, _ = run(kind, AVERAGING[name](), tmp_path / "plain", None)
    ours, stored = run(kind, AVERAGING[name](), tmp_path / "ours", door)
    assert_same_weights(weights(ours), weights(plain))
    for parameter, value in weights(plain).items():
        assert torch.equal(stored["state_dict"][parameter], value)


@pytest.mark.parametrize("door", DOORS)
def test_a_pass_for_statistics_moves_no_weight(door: str, tmp_path: Path):
    validated, _ = run(Normed, AVERAGING["swa"](), tmp_path / "validated", door)
    ours, stored = run(Normed, AVERAGING["swa"](), tmp_path / "ours", door, validates=False)
    assert_same_weights(weights(ours), weights(validated))  # a validation leaves no gradient to step with
    assert torch.equal(stored["state_dict"]["norm.running_mean"], ours.norm.running_mean)
    assert ours.norm.num_batches_tracked == 7


@pytest.mark.parametrize("door", DOORS)
def test_what_is_frozen_is_its_own_average(door: str):
    task, callbacks = through(door, HeadOnly())
    before = weights(task)
    trainer(max_epochs=4, callbacks=[*callbacks, AVERAGING["swa"]()]).fit(task, loader(), loader(2))
    after = weights(task)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "network.head.weight",
        "network.head.bias",
    }


def test_averages_that_round_what_is_frozen_are_warned_of_and_others_keep_its_bits():
    mask = SparseMask(0.3, score="random", exclude_head=False, seed=1)
    task, callbacks = through("callback", mask)
    rounding = trainer(callbacks=[*callbacks, EMAWeightAveraging(decay=0.9)])
    with pytest.warns(UserWarning, match="`EMAWeightAveraging` rounds"):
        rounding.fit(task, loader())
    task, callbacks = through("callback", mask)
    before = weights(task)
    average = WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.9))  # type: ignore[no-untyped-call]
    fitting = trainer(callbacks=[*callbacks, average], max_epochs=3)
    fitting.fit(task, loader())
    held = cast(SparseMask, cast(GradientTransformCallback, callbacks[0]).gradient_engine.transform).masks
    assert held
    for name, trains in held.items():
        assert torch.equal(weights(task)[name][~trains], before[name][~trains])
