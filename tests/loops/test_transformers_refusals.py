"""What the callback and the mixin for transformers' Trainer refuse, and what they say."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.optim import LBFGS
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GradDrop,
    HeadOnly,
    Identity,
    SpikeSkip,
    TrainableRows,
    TransformersCallback,
    ZClip,
)
from tests.cases import cases
from tests.loops.transformers_runs import (
    DOORS,
    made,
)
from tests.tiny import tiny_llama

BOTH = Chain([GradDrop(0.5), ComponentNormClip(0.05)])


def test_arguments_outside_their_range_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"`nonfinite = 'raise'`, which `TransformersMixin` takes"):
        TransformersCallback(Identity(), nonfinite="raise")
    with pytest.raises(ConfigurationError, match=r"Parameter `transform` should be a gradient transform.* Found `0.5`"):
        TransformersCallback(0.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"`trainer` should be a `transformers.Trainer`. Found a `Linear`"):
        TransformersCallback(Identity()).attach(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"should exist from the start of `trainer.train\(\)`"):
        _ = TransformersCallback(Identity()).gradient_engine


@cases("door", DOORS)
def test_the_trainers_own_clip_beside_a_clip_is_refused_when_it_is_made(door: str, tmp_path: Path) -> None:
    message = r"`max_grad_norm` of `TrainingArguments`, by default 1.0, should be 0 with `Chain.* `max_grad_norm = 1.0`"
    with pytest.raises(ConfigurationError, match=message):
        made(door, BOTH, tmp_path, attach=False, max_grad_norm=1.0)


def test_the_trainers_own_clip_before_a_mask_is_said_and_comes_after_it_in_the_mixin(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"clips the whole gradient before `GradDrop\(rate=0.5\)` acts. 0 turns"):
        made("callback", GradDrop(0.5), tmp_path, max_grad_norm=1.0).train()
    made("callback", Identity(), tmp_path, max_grad_norm=1.0).train()
    made("mixin", GradDrop(0.5), tmp_path, max_grad_norm=1.0).train()


def test_a_clip_that_hides_spikes_is_refused_and_none_at_infinity_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"be 0 with `SpikeSkip\(.*\)`: it hides .*`max_grad_norm = 1.0`"):
        made("callback", SpikeSkip(), tmp_path, attach=False, max_grad_norm=1.0)
    made("mixin", SpikeSkip(warmup_steps=3), tmp_path, max_grad_norm=1.0).train()
    made("callback", ComponentNormClip(0.1), tmp_path, max_grad_norm=float("inf"), max_steps=1).train()


@cases(
    ("arguments", "message"),
    [
        ({"optim": "lomo"}, "Found `optim = 'lomo'`, which updates weights within it"),
        ({"optim": "galore_adamw_layerwise"}, "Found `optim = 'galore_adamw_layerwise'`, which updates"),
    ],
)
@cases("door", DOORS)
def test_optimizers_inside_the_backward_pass_are_refused(
    door: str, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        made(door, GradDrop(0.5), tmp_path, attach=False, **arguments)


@cases("door", DOORS)
def test_deepspeed_is_refused(door: str, tmp_path: Path) -> None:
    trainer = made(door, GradDrop(0.5), tmp_path)
    trainer.args.deepspeed = {"zero_optimization": {"stage": 2}}
    with pytest.raises(ConfigurationError, match="`deepspeed` of `TrainingArguments` should be omitted"):
        trainer.train()


@cases("door", DOORS)
def test_an_optimizer_that_needs_a_closure_is_refused(door: str, tmp_path: Path) -> None:
    model = tiny_llama()
    optimizer = LBFGS(model.parameters())
    options = {"optimizers": (optimizer, LambdaLR(optimizer, lambda _: 1.0))}
    with pytest.raises(ConfigurationError, match=r"should compute one gradient per step\. Found `LBFGS`"):
        made(door, GradDrop(0.5), tmp_path, model=model, trainer_options=options).train()


def test_two_transforms_of_one_trainer_are_refused(tmp_path: Path) -> None:
    for door in DOORS:
        trainer = made(door, GradDrop(0.5), tmp_path)
        with pytest.raises(ConfigurationError, match="one gradient transform; use `Chain` for several"):
            TransformersCallback(GradDrop(0.5)).attach(trainer)
    trainer = made("callback", GradDrop(0.5), tmp_path, callbacks=[TransformersCallback(HeadOnly())], attach=False)
    with pytest.raises(ConfigurationError, match="one gradient transform; use `Chain` for several"):
        trainer.train()


def test_attaching_twice_is_attaching_once(tmp_path: Path) -> None:
    trainer = made("callback", BOTH, tmp_path)
    callback = trainer.callback_handler.callbacks[0]
    assert isinstance(callback, TransformersCallback)
    step = trainer.training_step
    assert callback.attach(trainer) is callback
    assert trainer.training_step is step
    assert trainer.callback_handler.callbacks.count(callback) == 1


def test_a_trainer_that_forgets_the_mixin_is_refused(tmp_path: Path) -> None:
    trainer = made("mixin", GradDrop(0.5), tmp_path)
    trainer.training_step = Trainer.training_step.__get__(trainer)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"has to call super\(\).training_step\(\).* did not, at step 0"):
        trainer.train()


@cases("door", DOORS)
def test_tokens_are_looked_up_in_the_tokenizer_of_the_trainer(door: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"a tokenizer as its `processing_class`\. Found none\.$"):
        made(door, TrainableRows({"*embed_tokens*": ["the"]}), tmp_path).train()


@cases("door", DOORS)
def test_a_run_in_which_nothing_trains_is_said(door: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Nothing trains"):
        made(door, GradDrop(1.0), tmp_path).train()


@cases("door", DOORS)
def test_a_clip_that_warms_up_in_every_step_is_said(door: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"`ZClip\(.*\)` is warming up in all 2 steps of this run"):
        made(door, ZClip(), tmp_path, max_steps=2).train()


@cases(("door", "name"), [("callback", "transform"), ("mixin", "gradient_transform")])
def test_what_is_no_strategy_is_refused_under_the_name_of_its_argument(door: str, name: str, tmp_path: Path) -> None:
    wrong: Any = GradDrop  # the class
    with pytest.raises(ConfigurationError, match=rf"^Parameter `{name}` should be a gradient transform"):
        made(door, wrong, tmp_path)
