"""Models in which nothing trains behind the last block: the topmost layer that trains takes the role of the head."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_sparsegrad import (
    BiasOnly,
    ConfigurationError,
    Constant,
    GradientEngine,
    GradualUnfreezing,
    HeadOnly,
    LayerGradDrop,
    LayerMask,
    Linear,
)
from lightning_sparsegrad.components import NamedParameters, find_layers
from lightning_sparsegrad.schedules import Schedule
from tests import tiny
from tests.cases import cases
from tests.transforms.headless import HEAD, MODELS, adapted, blocks, frozen, llama, model_of
from tests.transforms.small import fill_gradients, trained

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated"
)  # peft 0.21, transformers 5.23


every_model = cases("name", MODELS)


def _names_in(model: nn.Module, layers: Iterable[str]) -> set[str]:
    """Return the parameters that train and have a role in one of some layers."""
    parameters = NamedParameters(model)
    depths = find_layers(parameters)
    return {
        name
        for name in parameters
        if parameters[name].requires_grad and any(depths.names[depth] in layers for depth in depths.depths[name])
    }


def _trained(engine: GradientEngine, model: nn.Module, step: int) -> set[str]:
    """Return what trains in a window, whatever it did in the windows before."""
    fill_gradients(model)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.grad = None
    with engine.window(step):
        engine.apply_()
    return trained(model)


# ---------------------------------------------------------------- the three strategies on every model
@every_model
def test_layers_join_from_the_topmost_that_trains(name: str) -> None:
    model, layers = model_of(name), MODELS[name][1]
    engine = GradientEngine(model, GradualUnfreezing(unfreeze_every=2))
    for joined in (*range(len(layers)), 50):
        expected = _names_in(model, layers[max(0, len(layers) - 1 - joined) :])
        assert expected
        assert _trained(engine, model, 2 * joined) == _trained(engine, model, 2 * joined + 1) == expected, joined
    assert expected == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@every_model
def test_phases_are_of_equal_length(name: str) -> None:
    model, layers, length = model_of(name), MODELS[name][1], 3
    total = length * len(layers)
    engine = GradientEngine(model, GradualUnfreezing(), total_steps=total)
    for step in range(total):
        joined = min(len(layers) - 1, step * len(layers) // (total - 1))
        assert _trained(engine, model, step) == _names_in(model, layers[len(layers) - 1 - joined :]), step


@every_model
def test_the_topmost_layer_that_trains_trains_alone(name: str) -> None:
    model, layers = model_of(name), MODELS[name][1]
    engine = GradientEngine(model, HeadOnly())
    assert _trained(engine, model, 0) == _names_in(model, layers[-1:])
    assert isinstance(engine.transform, HeadOnly)
    assert engine.transform.acting_head == (None if layers[-1] == HEAD else layers[-1])


@every_model
def test_a_rate_of_one_keeps_the_topmost_layer(name: str) -> None:
    model, layers = model_of(name), MODELS[name][1]
    for rate in (1.0, Linear(1.0, 0.5)):
        engine = GradientEngine(model, LayerGradDrop(rate), total_steps=10)
        assert _trained(engine, model, 0) == _names_in(model, layers[-1:])


# ---------------------------------------------------------------- LayerGradDrop
def test_a_layer_that_does_not_train_is_no_reason_to_drop_the_last_one_that_does() -> None:
    model = llama(layers_to_transform=[0, 1])
    engine = GradientEngine(model, LayerGradDrop(Steep()))  # the layers that train have rate 1, block 2 another
    assert all(_trained(engine, model, step) == _names_in(model, blocks(1)) for step in range(20))


class Steep(Schedule):
    """One at the bottom, a half from block 2 on."""

    needs_progress = False
    needs_height = True

    def __call__(self, progress: float, height: float = 1.0) -> float:
        return 1.0 if height < 0.7 else 0.5

    def bounds(self) -> tuple[float, float]:
        return 0.5, 1.0


def test_a_rate_next_to_one_keeps_the_topmost_layer_too() -> None:
    model = llama()
    engine = GradientEngine(model, LayerGradDrop(1 - 1e-9))
    assert _trained(engine, model, 0) == _names_in(model, blocks(2))


def test_draws_are_those_of_the_model_that_trains_whole() -> None:
    whole, adapters = tiny.tiny_llama(), llama()
    engines = [GradientEngine(model, LayerGradDrop(0.5), seed=4) for model in (whole, adapters)]
    drawn = 0
    for step in range(30):
        names = _trained(engines[0], whole, step)
        expected = [f"block {i}" for i in range(3) if f"model.layers.{i}.self_attn.q_proj.weight" in names]
        if expected:  # else the draw is repeated where no head trains
            assert _trained(engines[1], adapters, step) == _names_in(adapters, expected)
            drawn += 1
    assert drawn > 20


# ---------------------------------------------------------------- training
@pytest.mark.parametrize(
    "transform", [HeadOnly(), GradualUnfreezing(unfreeze_every=2), LayerGradDrop(0.5), LayerGradDrop(1.0)], ids=repr
)
def test_skipping_changes_no_bit_and_what_is_dropped_does_not_move(transform: LayerMask) -> None:
    ends = []
    for skip in (True, False):
        model = llama(target_modules="all-linear")
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.3)
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.05, weight_decay=0.1)
        engine = GradientEngine(model, transform, skip_dropped=skip, seed=3)
        engine.attach(optimizer)
        start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for step in range(8):
            before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
            tokens = torch.randint(3, tiny.VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(step))
            with engine.window(step):
                model(input_ids=tokens, labels=tokens).loss.backward()
                engine.apply_()
            left = trained(model)
            optimizer.step()
            optimizer.zero_grad()
            moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
            assert moved == left
            assert moved
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        assert all(torch.equal(weights[name], start[name]) for name in weights if "lora_" not in name)
        ends.append(weights)
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


# ---------------------------------------------------------------- what is shown
@pytest.mark.parametrize("transform", [HeadOnly(), GradualUnfreezing()], ids=repr)
def test_the_description_names_the_layer_in_the_role_of_the_head(transform: LayerMask) -> None:
    line = "nothing trains behind block 2, which takes the role of the head"
    assert line in str(GradientEngine(llama(), transform, total_steps=12).describe()).splitlines()
    assert "role of the head" not in str(GradientEngine(tiny.tiny_llama(), transform, total_steps=12).describe())


def test_the_description_says_when_each_layer_joins() -> None:
    text = str(GradientEngine(llama(), GradualUnfreezing(), total_steps=12).describe())
    whens = [line for line in text.splitlines() if line.startswith(("embeddings", "block", "head"))]
    assert [line.split("  ")[-1].strip() for line in whens] == [
        "never: requires_grad=False",
        "1.6% from step 8, rest never",
        "1.6% from step 4, rest never",
        "1.6% all steps, rest never",
        "never: requires_grad=False",
    ]


def test_the_description_says_which_layers_never_train() -> None:
    lines = str(GradientEngine(llama(), HeadOnly()).describe(12)).splitlines()
    (line,) = (line for line in lines if line.startswith("block 0 to 1, each"))
    assert line.endswith("  never")


@cases("transform", [LayerGradDrop(0.5), LayerGradDrop(1.0)], ids=repr)
def test_layers_that_are_dropped_at_random_have_no_head(transform: LayerGradDrop) -> None:
    assert "role of the head" not in str(GradientEngine(llama(), transform).describe(12))


def test_the_rate_that_is_shown_is_the_one_that_holds() -> None:
    rows = GradientEngine(llama(), LayerGradDrop(1.0)).describe(12).settings
    rates = {row.component: row.value for row in rows if row.name == "rate"}
    assert {rate for name, rate in rates.items() if ".layers.2." in name} == {"0"}
    assert {rate for name, rate in rates.items() if ".layers.1." in name} == {"1"}


# ---------------------------------------------------------------- refusals
@cases(
    "transform", [HeadOnly, GradualUnfreezing, LayerGradDrop], ids=["HeadOnly", "GradualUnfreezing", "LayerGradDrop"]
)
def test_a_head_that_was_asked_for_has_to_train(transform: Any) -> None:
    arguments = {"rate": Linear(1.0, 0.0)} if transform is LayerGradDrop else {}
    message = (
        f"Parameter `head` should match parameters that train while `{transform.__name__}` freezes the layers. "
        f"Found `head = *lm_head*`, and nothing that trains among what it matches."
    )
    with pytest.raises(ConfigurationError) as refused:
        GradientEngine(llama(), transform(head="*lm_head*", **arguments), total_steps=10)
    assert str(refused.value) == message


def test_a_rate_below_one_needs_no_head_that_trains() -> None:
    model = llama()
    engine = GradientEngine(model, LayerGradDrop(0.9, head="*lm_head*"))
    assert all(_trained(engine, model, step) for step in range(20))


@cases(
    "transform",
    [
        HeadOnly(),
        GradualUnfreezing(schedule=Constant(0.5)),
        LayerGradDrop(0.5),
        BiasOnly(),
        HeadOnly(head="classifier.*"),
    ],
    ids=repr,
)
def test_a_model_in_which_nothing_trains_is_refused(transform: LayerMask) -> None:
    model = frozen(tiny.tiny_bert(), "")
    with pytest.raises(ConfigurationError) as refused:
        GradientEngine(model, transform)
    assert str(refused.value) == (
        "Parameter `model` should have a parameter that trains. Found `requires_grad = False` on all of "
        "`BertForSequenceClassification`."
    )


def test_adapters_without_biases_are_refused_by_bias_only() -> None:
    message = (
        r"Parameter `model` should have a bias or a normalization layer below its head that trains\. Found none in"
    )
    with pytest.raises(ConfigurationError, match=message):
        GradientEngine(llama(), BiasOnly())
    model = adapted(tiny.tiny_gpt2(), target_modules=["c_attn"], bias="all", fan_in_fan_out=True)
    names = _trained(GradientEngine(model, BiasOnly()), model, 0)
    assert names
    assert all(name.endswith("bias") for name in names)
