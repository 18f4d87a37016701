"""The two doors of a Trainer to the engine: refusals, and the freedom they leave to users."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy
from torch.nn.utils import clip_grad_norm_

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GlobalNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    GradientTransformCallback,
    Identity,
    SparseGradModule,
    ValueClip,
)
from tests.cases import cases

from .tasks import DOORS, SEED, Regression, assert_same_weights, fit, loader, through, trainer, weights

HOOKS = {
    "on_fit_start": (),
    "on_train_batch_start": ("batch", "batch_idx"),
    "on_after_backward": (),
    "on_before_optimizer_step": ("optimizer",),
    "on_save_checkpoint": ("checkpoint",),
    "on_load_checkpoint": ("checkpoint",),
}
CLIPS = [
    ComponentNormClip(0.1),
    GlobalNormClip(0.1),
    ValueClip(0.1),
    Chain([GradDrop(0.5), ComponentNormClip(0.1)]),
    Chain([Chain([ValueClip(0.1)]), GradDrop(0.5)]),
]

each_door = pytest.mark.parametrize("door", DOORS)
each_hook = cases("hook", HOOKS)


# ---------------------------------------------------------------- one door, one transform
@each_door
@cases("transform", [None, 0.5, GradDrop, "GradDrop", [GradDrop(0.5)]], ids=str)
def test_what_is_no_transform_is_refused(door: str, transform: Any) -> None:
    message = "Parameter `gradient_transform` of `.+` should be a gradient transform, `Identity.*. Found `.*`"
    with pytest.raises(ConfigurationError, match=message):
        through(door, transform)


@each_door
def test_identity_trains_as_no_door_does(door: str) -> None:
    task = Regression()
    trainer().fit(task, loader())
    assert_same_weights(weights(fit(door, Identity())), weights(task))


@each_door
def test_the_strategy_is_there_to_read_before_a_fit_and_the_engine_is_not(door: str) -> None:
    transform = GradDrop(0.5)
    task, callbacks = through(door, transform)
    holder: Any = callbacks[0] if callbacks else task
    assert holder.gradient_transform is transform
    with pytest.raises(RuntimeError, match=r"engine of `.+` should exist from the start of a fit"):
        _ = holder.gradient_engine


def test_a_callback_beside_a_module_of_ours_is_refused() -> None:
    message = r"in one place; use `Chain` .*Found `GradientTransformCallback`, `SparseRegression`\."
    with pytest.raises(ConfigurationError, match=message):
        fit("module", GradDrop(0.5), callbacks=[GradientTransformCallback(Identity())])


class Special(GradientTransformCallback):
    pass


class Sibling(GradientTransformCallback):
    pass


@cases("kinds", [(GradientTransformCallback,) * 2, (GradientTransformCallback, Special), (Special, Sibling)])
def test_two_callbacks_are_refused(kinds: tuple[type[GradientTransformCallback], ...]) -> None:
    for order in (kinds, kinds[::-1]):
        doors = [kind(GradDrop(0.5)) for kind in order]
        with pytest.raises(ConfigurationError, match="Gradients should be transformed in one place"):
            trainer(callbacks=[*doors]).fit(Regression(), loader())


# ---------------------------------------------------------------- the Trainer's own clipping
@each_door
@cases("clip", CLIPS, ids=repr)
def test_a_clip_beside_the_trainers_is_refused(door: str, clip: GradientTransform) -> None:
    message = r"`gradient_clip_val` of the Trainer should be omitted with `.*Clip\(.*Found `gradient_clip_val = 0.1`"
    with pytest.raises(ConfigurationError, match=message):
        fit(door, clip, gradient_clip_val=0.1)


@each_door
def test_the_trainers_clip_acts_behind_a_mask(door: str) -> None:
    run = fit(door, GradDrop(0.5), gradient_clip_val=0.1)
    task = Regression()
    engine, optimizer = GradientEngine(task, GradDrop(0.5), seed=SEED), task.configure_optimizers()
    for step, batch in enumerate(loader()):
        optimizer.zero_grad()
        with engine.window(step):
            torch.autograd.backward(task.loss(batch))
            engine.apply_()
        clip_grad_norm_(task.parameters(), 0.1)
        optimizer.step()
    assert_same_weights(weights(run), weights(task))


# ---------------------------------------------------------------- overridden hooks
def refused(owner: str, hook: str) -> Any:
    return pytest.raises(ConfigurationError, match=rf"`{owner}\.{hook}` should call super\(\)\.{hook}\(\)")


@each_hook
@cases("base", [SparseGradModule, GradientTransformCallback])
def test_an_override_without_super_is_refused_when_the_class_is_defined(base: type, hook: str) -> None:
    with refused("Mine", hook):
        type("Mine", (base,), {hook: lambda self, *args: None})


@each_hook
@cases("base", [SparseGradModule, GradientTransformCallback])
def test_a_mixin_without_super_is_refused_when_the_class_is_defined(base: type, hook: str) -> None:
    mixin = type("Mixin", (), {hook: lambda self, *args: None})
    with refused("Mixin", hook):
        type("Mine", (mixin, base), {})


@each_hook
def test_a_task_without_super_is_refused_when_it_is_combined(hook: str) -> None:
    theirs = type("Theirs", (Regression,), {hook: lambda self, *args: None})
    with refused("Theirs", hook):
        type("Mine", (theirs, SparseGradModule), {})


def logged(hook: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook)
    def wrapper(*args: Any) -> Any:
        return hook(*args)

    return wrapper


def test_an_override_is_looked_at_behind_its_decorators() -> None:
    class Kind(SparseGradModule):
        @logged
        def on_fit_start(self) -> None:
            super().on_fit_start()

    with refused("Mine", "on_fit_start"):
        type("Mine", (Kind,), {"on_fit_start": logged(lambda self: None)})


class Polite(Regression):
    """Overrides every hook and calls super() in each."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.called: set[str] = set()

    def on_fit_start(self) -> None:
        self.called.add("on_fit_start")
        super().on_fit_start()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        self.called.add("on_train_batch_start")
        return super().on_train_batch_start(batch, batch_idx)

    def on_after_backward(self) -> None:
        self.called.add("on_after_backward")
        super().on_after_backward()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.called.add("on_before_optimizer_step")
        super().on_before_optimizer_step(optimizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.called.add("on_save_checkpoint")
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.called.add("on_load_checkpoint")
        super().on_load_checkpoint(checkpoint)


class PoliteBehind(SparseGradModule, Polite):
    """The same behind the base of ours, whose hooks have to call on."""


def test_overrides_that_call_super_are_allowed(tmp_path: Path) -> None:
    expected = weights(fit("module", GradDrop(0.5), max_epochs=2))
    for kind in (type("PoliteBefore", (Polite, SparseGradModule), {}), PoliteBehind):
        task = kind(gradient_transform=GradDrop(0.5))
        run = trainer()
        run.fit(task, loader())
        run.save_checkpoint(tmp_path / "last.ckpt")
        trainer(max_epochs=2).fit(task, loader(), ckpt_path=tmp_path / "last.ckpt")
        assert task.called == set(HOOKS)
        assert_same_weights(weights(task), expected)


class Stopping(Regression):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None


def test_a_hook_behind_the_base_still_ends_the_epoch() -> None:
    task = type("Both", (SparseGradModule, Stopping), {})(gradient_transform=GradDrop(0.5))
    run = trainer()
    run.fit(task, loader())
    assert run.global_step == 2


@each_door
def test_a_hook_taken_away_from_an_object_is_found_at_the_first_step(door: str) -> None:
    task, callbacks = through(door, GradDrop(0.5))
    holder: Any = callbacks[0] if callbacks else task
    holder.on_after_backward = lambda *_: None
    with pytest.raises(RuntimeError, match=r"`.+\.on_after_backward` should run: .* super.* at step 0"):
        trainer(callbacks=callbacks).fit(task, loader())


@each_door
def test_a_start_taken_away_from_an_object_is_found(door: str) -> None:
    task, callbacks = through(door, GradDrop(0.5))
    holder: Any = callbacks[0] if callbacks else task
    holder.on_fit_start = lambda *_: None
    with pytest.raises(RuntimeError, match=r"does `on_fit_start` call super\(\)\?"):
        trainer(callbacks=callbacks).fit(task, loader())


# ---------------------------------------------------------------- strategies that hide gradients
class Customised(FSDPStrategy):
    pass


@each_door
@cases("kind", [FSDPStrategy, Customised, DeepSpeedStrategy])
def test_strategies_that_hide_gradients_are_refused(door: str, kind: type[Strategy]) -> None:
    strategy = kind.__new__(kind)  # without its __init__, for which DeepSpeed would have to be installed
    strategy.optimizers = []
    task, callbacks = through(door, GradDrop(0.5))
    run = trainer(callbacks=callbacks)
    run._accelerator_connector.strategy = strategy
    task.trainer = run
    start = functools.partial(callbacks[0].on_fit_start, run, task) if callbacks else task.on_fit_start
    with pytest.raises(
        ConfigurationError, match=rf"sharded by rows as `ModelParallelStrategy` \(FSDP2\) does. Found `{kind.__name__}`"
    ):
        start()
