"""The callback and the mixin for transformers' Trainer: the plain loop's weights, state, statistics, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import AutocastKwargs
from torch import nn
from transformers import Trainer

from lightning_sparsegrad import (
    AutoClip,
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GradDrop,
    GradientTransform,
    HeadOnly,
    Identity,
    SparseMask,
    TrainableRows,
)
from tests.cases import cases
from tests.loops.transformers_runs import (
    DOORS,
    STEPS,
    Recorder,
    engine_of,
    failing,
    in_plain_loop,
    made,
    rows,
    weights,
)
from tests.tiny import tiny_llama
from tests.transforms.small import assert_same_bits

BOTH = Chain([GradDrop(0.5), ComponentNormClip(0.05)])
STRATEGIES: list[GradientTransform] = [  # more of them in `same_weights`
    GradDrop(0.5, resample_every="epoch"),
    SparseMask(0.1, score="fisher", calibration_windows=2),
]


# ---------------------------------------------------------------- the same weights, also resumed
@pytest.mark.long
@cases("door", DOORS)
@cases("strategy", STRATEGIES, ids=str)
def test_the_trainer_gives_the_weights_of_a_plain_loop(door: str, strategy: GradientTransform, tmp_path: Path) -> None:
    trainer = made(door, strategy, tmp_path, saves=True)
    trainer.train()
    assert_same_bits(weights(trainer.model), in_plain_loop(strategy))
    assert engine_of(trainer).step == STEPS
    for step in (1, 5):  # in the calibration, and at the start of the second epoch
        resumed = made(door, strategy, tmp_path / "resumed")
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert_same_bits(weights(resumed.model), weights(trainer.model))


@pytest.mark.long
def test_dropout_draws_the_same_with_and_without_the_check_of_averages(tmp_path: Path) -> None:
    ends = []
    for attach in (True, False):
        model = tiny_llama(attention_dropout=0.3)
        trainer = made("callback", GradDrop(0.5), tmp_path, model=model, attach=attach)
        trainer.train()
        ends.append(weights(trainer.model))
    assert_same_bits(*ends)


def test_a_callback_that_is_not_attached_gives_the_same_weights(tmp_path: Path) -> None:
    trainer = made("callback", BOTH, tmp_path, attach=False)
    trainer.train()
    assert_same_bits(weights(trainer.model), in_plain_loop(BOTH))


@pytest.mark.long
@cases("door", DOORS)
def test_training_twice_starts_anew(door: str, tmp_path: Path) -> None:
    trainer = made(door, AutoClip(), tmp_path)
    trainer.train()
    first = engine_of(trainer)
    trainer.train()
    assert engine_of(trainer) is not first
    assert engine_of(trainer).step == STEPS


# ---------------------------------------------------------------- statistics
@cases("door", DOORS)
def test_statistics_are_in_the_log_history_and_in_reporters(door: str, tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = made(
        door, BOTH, tmp_path, callbacks=[recorder], eval_strategy="epoch", trainer_options={"eval_dataset": rows(2)}
    )
    trainer.train()
    kept = "gradient/kept"
    for logs in (trainer.state.log_history, recorder.logs):
        trained = [each for each in logs if "loss" in each]
        assert len(trained) == STEPS
        assert all(0.4 < each[kept] < 0.6 for each in trained)
        assert len({each[kept] for each in trained}) == STEPS
        assert all(isinstance(each[kept], float) for each in trained)
        assert not any(kept in each for each in logs if "loss" not in each)
        assert any("eval_loss" in each for each in logs)


def test_without_attach_statistics_are_in_the_log_history(tmp_path: Path) -> None:
    trainer = made("callback", BOTH, tmp_path, attach=False)
    trainer.train()
    assert all("gradient/kept" in each for each in trainer.state.log_history if "loss" in each)


# ---------------------------------------------------------------- state
def test_the_state_is_json_that_any_reader_takes(tmp_path: Path) -> None:
    strategy = Chain([AutoClip(), SparseMask(0.1, calibration_windows=2)])
    made("callback", strategy, tmp_path, saves=True, max_steps=3).train()

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    for step in (1, 3):
        text = (tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text()
        state = json.loads(text, parse_constant=refuse)["stateful_callbacks"]["lightning_sparsegrad"]
        assert state["step"] == step
        assert state["strategy"] == repr(strategy)


def test_a_checkpoint_without_a_state_and_another_strategy_are_said(tmp_path: Path) -> None:
    trainer = made("callback", GradDrop(0.5), tmp_path, saves=True, max_steps=2)
    trainer.train()
    folder = str(tmp_path / "checkpoint-2")
    with pytest.warns(UserWarning, match=r"changes from `GradDrop\(rate=0.5\)` to `AutoClip.* at the resumed step"):
        made("callback", AutoClip(), tmp_path / "other").train(resume_from_checkpoint=folder)
    file = tmp_path / "checkpoint-2" / "trainer_state.json"
    state = json.loads(file.read_text())
    del state["stateful_callbacks"]["lightning_sparsegrad"]
    file.write_text(json.dumps(state))
    with pytest.warns(UserWarning, match=r"checkpoint has no state of a gradient transform: `GradDrop"):
        made("callback", GradDrop(0.5), tmp_path / "again").train(resume_from_checkpoint=folder)


@cases("text", ["no base64", "", "gASVAAAAAAAAAAA="])
def test_a_damaged_state_is_refused(text: str, tmp_path: Path) -> None:
    made("callback", AutoClip(), tmp_path, saves=True, max_steps=2).train()
    file = tmp_path / "checkpoint-2" / "trainer_state.json"
    state = json.loads(file.read_text())
    history = state["stateful_callbacks"]["lightning_sparsegrad"]["transform"]
    damaged = json.loads(json.dumps(history), object_hook=lambda each: {"tensor": text} if "tensor" in each else each)
    assert damaged != history
    state["stateful_callbacks"]["lightning_sparsegrad"]["transform"] = damaged
    file.write_text(json.dumps(state))
    with pytest.raises(ConfigurationError, match="should hold tensors as they were saved"):
        made("callback", AutoClip(), tmp_path / "other").train(resume_from_checkpoint=str(file.parent))


# ---------------------------------------------------------------- exceptions
@cases("door", DOORS)
@cases("error", [RuntimeError("it fails"), KeyboardInterrupt()], ids=repr)
def test_an_exception_leaves_every_tensor_as_it_was(door: str, error: BaseException, tmp_path: Path) -> None:
    trainer = made(door, HeadOnly(), tmp_path)
    assert trainer.model is not None
    failing(trainer.model, at=6, error=error)
    with pytest.raises(type(error)):
        trainer.train()
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


@pytest.mark.long
@cases("door", DOORS)
def test_a_search_for_the_batch_size_begins_anew(door: str, tmp_path: Path) -> None:
    model = tiny_llama()
    failing(model, at=6, error=RuntimeError("CUDA out of memory."))
    trainer = made(door, HeadOnly(), tmp_path, model=model, per_device_train_batch_size=2, auto_find_batch_size=True)
    trainer.train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert engine_of(trainer).step == STEPS


# ---------------------------------------------------------------- data without a length
class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(rows())


@cases("door", DOORS)
def test_gradients_that_join_the_next_epoch_are_said(door: str, tmp_path: Path) -> None:
    trainer = made(door, HeadOnly(), tmp_path, data=Stream(), max_steps=8)
    with pytest.warns(UserWarning, match="The data ended the epoch within the window of step 3: the Trainer"):
        trainer.train()
    assert engine_of(trainer).step == 8


# ---------------------------------------------------------------- loss scaling
def scaled(trainer: Trainer, scale: float = 2.0**10) -> Trainer:
    """Have a Trainer scale its losses on the CPU, where it has no scaler by itself."""
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=100)
    trainer.accelerator.native_amp = True
    trainer.accelerator.state._mixed_precision = "fp16"
    trainer.accelerator.autocast_handler = AutocastKwargs(enabled=False)
    return trainer


@pytest.mark.long
@cases("door", DOORS)
@cases("strategy", [BOTH, HeadOnly(), TrainableRows({"*embed_tokens*": [3, 5]}), AutoClip()], ids=str)
def test_under_loss_scaling_the_weights_are_those_without(
    door: str, strategy: GradientTransform, tmp_path: Path
) -> None:
    trainer = scaled(made(door, strategy, tmp_path))
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() == 2.0**10
    plain = in_plain_loop(strategy)
    for name, weight in weights(trainer.model).items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.long
@cases("door", DOORS)
@cases("nonfinite", ["propagate", "skip"])
def test_overflows_are_left_to_the_scaler(door: str, nonfinite: str, tmp_path: Path) -> None:
    trainer = scaled(made(door, AutoClip(), tmp_path, options={"nonfinite": nonfinite}))
    assert trainer.model is not None
    spoil(trainer.model.get_parameter("lm_head.weight"), at=5)
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() == 2.0**9
    assert all(weight.isfinite().all() for weight in weights(trainer.model).values())
    assert engine_of(trainer).step == STEPS
    assert trainer.state.log_history[-2].get("gradient/nonfinite") == (None if nonfinite == "propagate" else 1)


# ---------------------------------------------------------------- gradients that are not finite
@cases("door", DOORS)
def test_windows_that_are_not_finite_are_skipped(door: str, tmp_path: Path) -> None:
    trainer = made(door, AutoClip(), tmp_path, options={"nonfinite": "skip"})
    assert trainer.model is not None
    spoil(trainer.model.get_parameter("lm_head.weight"), at=5)
    trainer.train()
    assert all(weight.isfinite().all() for weight in weights(trainer.model).values())
    assert trainer.state.log_history[-2]["gradient/nonfinite"] == 1


def test_the_mixin_names_the_tensor_that_is_not_finite(tmp_path: Path) -> None:
    trainer = made("mixin", Identity(), tmp_path, options={"nonfinite": "raise"})
    assert trainer.model is not None
    spoil(trainer.model.get_parameter("lm_head.weight"), at=5)
    with pytest.raises(FloatingPointError, match=r"of `lm_head.weight`, at step 2"):
        trainer.train()


def spoil(parameter: nn.Parameter, *, at: int) -> None:
    """Put an infinite entry into a gradient at a backward pass."""
    calls = 0

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gradient.index_fill(0, torch.tensor([0]), float("inf")) if calls == at else gradient

    parameter.register_hook(hook)  # type: ignore[no-untyped-call]
