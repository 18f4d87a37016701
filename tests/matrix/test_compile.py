"""Compiled models: names resolve as without, and weights are those of the run that is not compiled."""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch._dynamo.utils import counters

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    LayerGradDrop,
)
from tests.engine.skipping import small
from tests.lightning.tasks import Weights, assert_same_weights, door_of, through, weights
from tests.transforms.golden import Golden
from tests.transforms.small import SEED, TOTAL_STEPS

from .task import ROWS, Task, Transposed, assert_close, every_row, fit_task, loss_of, plan, without_skipping

pytestmark = [
    without_skipping,  # what is compiled as one is computed whole
    # the compiler of torch 2.13 looks at the gradient of every input that it meets
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # in its own code
]

CHAIN = Chain({"layers": LayerGradDrop(0.5), "entries": GradDrop(0.5), "clip": ComponentNormClip(0.5)})


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """Start with nothing compiled, and make sure that something was."""
    torch._dynamo.reset()
    counters.clear()
    yield
    assert counters["stats"]["unique_graphs"] > 0
    torch._dynamo.reset()


class Holder(LightningModule):
    """A task around a model of its own, as most are."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model: nn.Module = small()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return loss_of(self.model, batch)

    def configure_optimizers(self) -> Any:
        return Task.optimizer(self.parameters())


def inside(task: Any, backend: str) -> Any:
    task.model = torch.compile(task.model, backend=backend)
    return task


def inside_in_place(task: Any, backend: str) -> Any:
    task.model.compile(backend=backend)
    return task


def whole(task: Any, backend: str) -> Any:
    return torch.compile(task, backend=backend)


def whole_in_place(task: Any, backend: str) -> Any:
    task.compile(backend=backend)
    return task


def blocks(task: Any, backend: str) -> Any:
    for index, block in enumerate(task.blocks):
        task.blocks[index] = torch.compile(block, backend=backend)
    return task


def blocks_in_place(task: Any, backend: str) -> Any:
    for block in task.blocks:
        block.compile(backend=backend)
    return task


Form = Callable[[Any, str], Any]

FORMS: dict[str, tuple[type[LightningModule], Form, str]] = {
    "torch.compile(model)": (Holder, inside, "module"),
    "model.compile()": (Holder, inside_in_place, "callback"),
    "torch.compile(module)": (Transposed, whole, "module"),
    "module.compile()": (Transposed, whole_in_place, "callback"),
    "torch.compile(block)": (Transposed, blocks, "module"),
    "block.compile()": (Transposed, blocks_in_place, "callback"),
}

COMMON = ("torch.compile(model)", "torch.compile(module)")
each_form = pytest.mark.parametrize("form", FORMS)


def fit(transform: GradientTransform, form: str, backend: str | None) -> tuple[Weights, set[str]]:
    """Fit a task, compiled or not; return its weights and the names that statistics tell of."""
    kind, compiled, door = FORMS[form]
    task, doors = through(door, transform, kind)
    run = fit_task(compiled(task, backend) if backend else task, callbacks=doors)
    actual = {name.replace("_orig_mod.", ""): weight for name, weight in weights(task).items()}
    return actual, set(door_of(run).gradient_engine.statistics)


# ---------------------------------------------------------------- under a Trainer
@each_form
def test_a_compiled_task_trains_as_it_does_uncompiled(form: str) -> None:
    assert_trains_alike(CHAIN, form)


@pytest.mark.long
@pytest.mark.parametrize(("row", "form"), [*zip(ROWS, cycle(COMMON), strict=False)], ids=str)
def test_every_strategy_trains_as_it_does_uncompiled(row: Golden, form: str) -> None:
    assert_trains_alike(row.transform, form)


def assert_trains_alike(transform: GradientTransform, form: str) -> None:
    actual, named = fit(transform, form, "eager")
    expected, names = fit(transform, form, None)
    assert named == names
    assert_same_weights(actual, expected)


@pytest.mark.parametrize(
    "form", [form if form in COMMON else pytest.param(form, marks=pytest.mark.long) for form in FORMS]
)
def test_patterns_mean_what_they_mean_uncompiled(form: str) -> None:
    root = "model." if FORMS[form][0] is Holder else ""
    layers = LayerGradDrop(0.5, layers=[f"{root}embeddings.*", f"{root}blocks.0.*", f"{root}blocks.1.*"])
    entries = GradDrop(0.5, include=f"{root}blocks.0.attention.*")
    for clip in (
        ComponentNormClip(0.1, components={f"{root}blocks.[01].norm.*": "norms", "*": "rest"}),
        ComponentNormClip(0.1, overrides={f"{root}head.weight": 0.01}),
    ):
        assert_trains_alike(Chain([layers, entries, clip]), form)


@pytest.mark.long
@each_form
def test_a_task_compiled_ahead_of_time_trains_as_it_does_uncompiled(form: str) -> None:
    assert_same_weights(fit(CHAIN, form, "aot_eager")[0], fit(CHAIN, form, None)[0])


@pytest.mark.long
@pytest.mark.parametrize("form", ["torch.compile(model)", "block.compile()"])
def test_a_task_compiled_to_machine_code_trains_to_rounding(form: str) -> None:
    assert_close(fit(CHAIN, form, "inductor")[0], fit(CHAIN, form, None)[0])


# ---------------------------------------------------------------- in a plain loop
def train(model: nn.Module, row: Golden) -> Weights:
    engine = GradientEngine(model, row.transform, total_steps=TOTAL_STEPS, seed=SEED)
    optimizer = Task.optimizer(model.parameters())
    engine.attach(optimizer)
    for step, (epoch, divisor, batches) in enumerate(plan()):
        with engine.window(step, epoch=epoch):
            for batch in batches:
                torch.autograd.backward(loss_of(model, batch) / divisor)
            engine.apply_()
        optimizer.step()
        optimizer.zero_grad()
    return {name.replace("_orig_mod.", ""): weight for name, weight in weights(model).items()}


def test_a_model_that_is_compiled_once_trains_by_every_strategy_as_it_does_uncompiled(
    subtests: pytest.Subtests,
) -> None:
    compiled, start = whole(small(), "eager"), small().state_dict()
    for row in ROWS:
        with subtests.test(str(row)):
            compiled.load_state_dict({f"_orig_mod.{name}": weight for name, weight in start.items()})
            assert_same_weights(train(compiled, row), train(small(), row))


@pytest.mark.long
@every_row
def test_compiled_blocks_train_as_they_do_uncompiled(row: Golden) -> None:
    assert_same_weights(train(blocks_in_place(small(), "eager"), row), train(small(), row))
