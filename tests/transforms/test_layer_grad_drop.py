"""LayerGradDrop: the gradients of whole layers are dropped, embeddings and blocks alike; the head always trains."""

from math import nan, sqrt
from typing import Any

import pytest
import torch
from torch import nn

from lightning_sparsegrad import ConfigurationError, GradientEngine, LayerGradDrop, Linear, TopDown
from tests.cases import cases
from tests.tiny import tiny_bert, tiny_gpt2
from tests.transforms.small import Small, fill_gradients, trained

HEAD = {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
LAYERS = ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.encoder.layer.2")


def _trained(engine: GradientEngine, model: nn.Module, step: int, epoch: int | None = None) -> set[str]:
    fill_gradients(model)
    with engine.window(step, epoch=epoch):
        engine.apply_()
    return trained(model)


def _pattern(engine: GradientEngine, model: nn.Module, step: int, epoch: int | None = None) -> tuple[bool, ...]:
    """Return which layers train, after checking that each trains whole or not at all and that the head does."""
    names = _trained(engine, model, step, epoch)
    assert names >= HEAD
    pattern = []
    for layer in LAYERS:
        inside = {name for name, _ in model.named_parameters() if name.startswith(f"{layer}.")}
        assert inside <= names or inside.isdisjoint(names), f"{layer} trains by half"
        pattern.append(inside <= names)
    return tuple(pattern)


def test_each_layer_is_dropped_independently_with_the_rate():
    model, steps = tiny_bert(), 150
    engine = GradientEngine(model, LayerGradDrop(0.3), seed=2)
    patterns = torch.tensor([_pattern(engine, model, step) for step in range(steps)]).double()
    shares = patterns.mean(dim=0)
    assert shares.tolist() == pytest.approx([0.7] * 4, abs=4 * sqrt(0.21 / steps))
    together = (patterns.T @ patterns / steps) - shares.outer(shares)
    assert float((together - together.diag().diag()).abs().max()) < 4 * 0.21 / sqrt(steps)
    assert len({tuple(pattern) for pattern in patterns.tolist()}) > 8


def test_the_kept_share_is_that_of_the_entries_left():
    model = tiny_bert()
    engine = GradientEngine(model, LayerGradDrop(0.5), seed=2)
    names = _trained(engine, model, 0)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    expected = sum(sizes[name] for name in names) / sum(sizes.values())
    assert 0 < expected < 1
    assert float(engine.statistics["kept"]) == pytest.approx(expected)


@cases(("every", "borders"), [(1, list(range(1, 24))), (5, [5, 10, 15, 20]), ("epoch", [8, 16]), (None, [])], ids=str)
def test_layers_are_drawn_anew_at_every_border_and_nowhere_else(every: Any, borders: list[int]):
    model = tiny_bert()
    engine = GradientEngine(model, LayerGradDrop(0.5, resample_every=every), seed=4)
    patterns = [_pattern(engine, model, step, epoch=step // 8) for step in range(24)]
    changes = [step for step in range(1, 24) if patterns[step] != patterns[step - 1]]
    assert set(changes) <= set(borders)
    assert len(changes) >= len(borders) // 2


def test_a_rate_of_one_leaves_the_head():
    model = tiny_bert()
    assert _trained(GradientEngine(model, LayerGradDrop(1.0)), model, 0) == HEAD


@cases(("step", "expected"), [(0, (False,) * 4), (100, (True,) * 4)], ids=["first", "last"])
def test_the_rate_may_follow_training(step: int, expected: tuple[bool, ...]):
    model = tiny_bert()
    assert _pattern(GradientEngine(model, LayerGradDrop(Linear(1.0, 0.0)), total_steps=101), model, step) == expected


def test_the_rate_may_follow_depth():
    model = tiny_bert()  # heights of the layers: 0, 1/4, 2/4, 3/4
    engine = GradientEngine(model, LayerGradDrop(TopDown(1.0, 0.0, width=0.1)), total_steps=101)
    assert [sum(_pattern(engine, model, step)) for step in (0, 25, 50, 75, 100)] == [0, 1, 2, 3, 4]
    assert _pattern(engine, model, 50) == (False, False, True, True)


def test_seeds_draw_different_layers_and_one_s_own_wins():
    model = tiny_bert()

    def patterns(run: int, own: int | None = None) -> list[tuple[bool, ...]]:
        engine = GradientEngine(model, LayerGradDrop(0.5, seed=own), seed=run)
        return [_pattern(engine, model, step) for step in range(8)]

    assert patterns(0) != patterns(1)
    assert patterns(0, own=1) == patterns(1)


# ---------------------------------------------------------------- what belongs to which layer
def test_a_tied_weight_is_dropped_only_if_all_its_roles_are():
    model = tiny_gpt2()  # the head is the embedding
    assert _trained(GradientEngine(model, LayerGradDrop(1.0)), model, 0) == {"transformer.wte.weight"}
    untied = tiny_gpt2(tie_word_embeddings=False)
    assert _trained(GradientEngine(untied, LayerGradDrop(1.0)), untied, 0) == {"lm_head.weight"}


def test_the_final_norm_trains_with_the_last_block():
    model = tiny_gpt2()
    engine = GradientEngine(model, LayerGradDrop(0.5))
    seen = set()
    for step in range(20):
        names = _trained(engine, model, step)
        assert ("transformer.ln_f.weight" in names) == ("transformer.h.2.mlp.c_fc.weight" in names)
        seen.add("transformer.ln_f.weight" in names)
    assert seen == {True, False}


def test_without_a_head_a_draw_that_would_train_nothing_is_drawn_again():
    model = tiny_bert().get_submodule("bert.encoder")
    engine = GradientEngine(model, LayerGradDrop(0.9))
    counts = [len(_trained(engine, model, step)) for step in range(30)]
    assert min(counts) == len(list(model.get_submodule("layer.0").parameters()))


def test_with_a_frozen_head_a_draw_that_would_train_nothing_is_drawn_again():
    model = tiny_bert()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in HEAD)
    engine = GradientEngine(model, LayerGradDrop(0.9))
    for step in range(30):
        assert _trained(engine, model, step) - HEAD, step


def test_layers_can_be_given_by_pattern():
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("bottom", "middle", "top")})
    engine = GradientEngine(model, LayerGradDrop(0.5, layers=["bottom.*", "middle.*"]), seed=1)
    seen = {frozenset(_trained(engine, model, step)) for step in range(30)}
    layer = {name: {f"{name}.weight", f"{name}.bias"} for name in model}
    assert seen == {
        frozenset(layer["top"] | one | other) for one in (set(), layer["bottom"]) for other in (set(), layer["middle"])
    }


def test_a_narrower_head_leaves_the_rest_to_the_last_block():
    model = tiny_bert()
    engine = GradientEngine(model, LayerGradDrop(1.0, head="classifier.*"))
    assert _trained(engine, model, 0) == {"classifier.weight", "classifier.bias"}


# ---------------------------------------------------------------- refusals
RATES = "Parameter `rate` should be in [0, 1]. Found `rate = "
EVERY = "Parameter `resample_every` should be a positive number of steps, 'epoch' or None. Found `resample_every = "
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a negative rate": ({"rate": -1e-9}, f"{RATES}-1e-09`."),
    "a rate above 1": ({"rate": 2}, f"{RATES}2`."),
    "an undefined rate": ({"rate": nan}, f"{RATES}nan`."),
    "a rate in words": ({"rate": "0.5"}, "Parameter `rate` should be a number or a schedule. Found `'0.5'`."),
    "a rate of False": ({"rate": False}, "Parameter `rate` should be a number or a schedule. Found `False`."),
    "no steps": ({"rate": 0.5, "resample_every": 0}, f"{EVERY}0`."),
    "an unknown word": ({"rate": 0.5, "resample_every": "step"}, f"{EVERY}'step'`."),
    "no layers": (
        {"rate": 0.5, "layers": []},
        "Parameter `layers` should hold a pattern per layer. Found `layers = []`.",
    ),
    "a negative seed": (
        {"rate": 0.5, "seed": -3},
        "Parameter `seed` should be a non-negative integer, or None for the seed of the run. Found `seed = -3`.",
    ),
}


@cases(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_an_argument_outside_its_range_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError) as refused:
        LayerGradDrop(**arguments)
    assert str(refused.value) == message


def test_a_model_without_layers_is_refused():
    message = (
        "Parameter `layers` should be given for a model whose blocks cannot be found: one pattern per layer, bottom "
        "first. Found no list of blocks in `Linear`."
    )
    with pytest.raises(ConfigurationError, match=message):
        GradientEngine(nn.Linear(2, 2), LayerGradDrop(0.5))


@cases(
    ("arguments", "message"),
    [
        (
            {"layers": ["blocks.0.*", "block.1.*"]},
            "Parameter `layers` should hold patterns that match a parameter name",
        ),
        ({"head": "classifier.*"}, "Parameter `head` should hold patterns that match a parameter name"),
    ],
    ids=["layers", "head"],
)
def test_a_pattern_that_matches_nothing_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message):
        GradientEngine(Small(), LayerGradDrop(0.5, **arguments))


def test_a_draw_per_epoch_needs_the_epoch():
    model = Small()
    engine = GradientEngine(model, LayerGradDrop(0.5, resample_every="epoch"))
    message = "Parameter `epoch` of the window should be given with `resample_every = 'epoch'`."
    with pytest.raises(ConfigurationError, match=message), engine.window(0):
        engine.apply_()
