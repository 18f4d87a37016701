"""GradualUnfreezing: the head first, then layer by layer from the top, in phases of equal length."""

from typing import Any

import pytest
from torch import nn

from lightning_sparsegrad import ConfigurationError, Constant, GradientEngine, GradualUnfreezing, Linear, TopDown
from lightning_sparsegrad.schedules import Schedule
from tests.cases import cases
from tests.tiny import tiny_bart, tiny_bert, tiny_gpt2
from tests.transforms.small import fill_gradients, trained

LAYERS = ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.encoder.layer.2")  # bottom first


def _trained(engine: GradientEngine, model: nn.Module, step: int, epoch: int | None = None) -> set[str]:
    fill_gradients(model)
    with engine.window(step, epoch=epoch):
        engine.apply_()
    return trained(model)


def _joined(engine: GradientEngine, model: nn.Module, step: int, epoch: int | None = None) -> int:
    """Return how many layers train, after checking that they are the top ones, whole, with the head."""
    names = _trained(engine, model, step, epoch)
    assert {"bert.pooler.dense.weight", "classifier.weight", "classifier.bias"} <= names
    whole = [all(n in names for n, _ in model.named_parameters() if n.startswith(f"{layer}.")) for layer in LAYERS]
    some = [any(n.startswith(f"{layer}.") for n in names) for layer in LAYERS]
    assert whole == some == sorted(some), "not the top layers, or not whole"
    return sum(some)


@cases(("total", "phase"), [(5, 1), (10, 2), (100, 20)], ids=str)
def test_by_default_training_has_equal_phases_from_the_head_alone_to_all_layers(total: int, phase: int):
    model = tiny_bert()  # four layers: five phases
    engine = GradientEngine(model, GradualUnfreezing(), total_steps=total)
    borders = [step for k in range(5) for step in (k * phase, (k + 1) * phase - 1)]
    assert [_joined(engine, model, step) for step in borders] == [k for k in range(5) for _ in range(2)]


def test_training_that_goes_on_longer_than_said_keeps_all_layers():
    model = tiny_bert()
    assert _joined(GradientEngine(model, GradualUnfreezing(), total_steps=10), model, 50) == 4


def test_a_layer_may_join_every_few_steps():
    model = tiny_bert()
    engine = GradientEngine(model, GradualUnfreezing(unfreeze_every=3))
    assert [_joined(engine, model, step) for step in (0, 2, 3, 5, 6, 9, 12, 300)] == [0, 0, 1, 1, 2, 3, 4, 4]


def test_a_layer_may_join_every_epoch():
    model = tiny_bert()
    engine = GradientEngine(model, GradualUnfreezing(unfreeze_every="epoch"))
    assert [_joined(engine, model, 7, epoch) for epoch in (0, 1, 2, 3, 4, 9)] == [0, 1, 2, 3, 4, 4]


class Stairs(Schedule):
    """A user's schedule: all but the embeddings after a tenth, everything in the last tenth."""

    def __call__(self, progress: float, height: float = 1.0) -> float:
        return 0.0 if progress < 0.1 else 0.6 if progress < 0.9 else 1.0

    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0


@cases(
    ("schedule", "expected"),
    [
        (Stairs(), [0, 3, 3, 3, 4]),
        (Linear(0.0, 1.0, finish=0.5), [0, 2, 4, 4, 4]),
        (Linear(0.4, 1.0), [2, 2, 3, 4, 4]),
        (Constant(0.2), [1, 1, 1, 1, 1]),
    ],
    ids=["a user's own", "done at half time", "two from the start", "the top one throughout"],
)
def test_the_schedule_is_open(schedule: Schedule, expected: list[int]):
    model = tiny_bert()
    engine = GradientEngine(model, GradualUnfreezing(schedule=schedule), total_steps=101)
    assert [_joined(engine, model, step) for step in (0, 25, 50, 75, 100)] == expected


def test_a_schedule_that_ignores_progress_needs_no_total():
    model = tiny_bert()
    assert _joined(GradientEngine(model, GradualUnfreezing(schedule=Constant(0.4))), model, 0) == 2


# ---------------------------------------------------------------- what belongs to which layer
def test_the_final_norm_joins_with_the_last_block_and_a_tied_embedding_is_the_head():
    model = tiny_gpt2()
    engine = GradientEngine(model, GradualUnfreezing(unfreeze_every=1))
    assert _trained(engine, model, 0) == {"transformer.wte.weight"}
    last = {name for name, _ in model.named_parameters() if name.startswith("transformer.h.2.")}
    norm = {"transformer.ln_f.weight", "transformer.ln_f.bias"}
    assert _trained(engine, model, 1) == {"transformer.wte.weight"} | norm | last
    assert "transformer.wpe.weight" not in _trained(engine, model, 3)
    assert _trained(engine, model, 4) == {name for name, _ in model.named_parameters()}


def test_decoder_blocks_lie_above_encoder_blocks():
    model = tiny_bart()  # two encoder blocks, three decoder blocks
    engine = GradientEngine(model, GradualUnfreezing(unfreeze_every=1))
    for joined, block in enumerate(["decoder.layers.2", "decoder.layers.0", "encoder.layers.1", "encoder.layers.0"]):
        step = (1, 3, 4, 5)[joined]
        assert f"model.{block}.fc1.weight" in _trained(engine, model, step)
        assert f"model.{block}.fc1.weight" not in _trained(engine, model, step - 1)


def test_layers_can_be_given_by_pattern():
    model = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in ("bottom", "middle", "top")})
    engine = GradientEngine(model, GradualUnfreezing(unfreeze_every=1, layers=["bottom.*", "middle.*"]))
    assert [len(_trained(engine, model, step)) for step in range(4)] == [1, 2, 3, 3]
    assert _trained(engine, model, 1) == {"middle.weight", "top.weight"}


def test_a_narrower_head_leaves_the_rest_to_the_last_block():
    model = tiny_bert()
    engine = GradientEngine(model, GradualUnfreezing(unfreeze_every=1, head=["classifier.*"]))
    assert _trained(engine, model, 0) == {"classifier.weight", "classifier.bias"}
    assert "bert.pooler.dense.weight" in _trained(engine, model, 1)


# ---------------------------------------------------------------- refusals
EVERY = "Parameter `unfreeze_every` should be a positive number of steps, 'epoch' or None. Found `unfreeze_every = "
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"unfreeze_every": 0}, f"{EVERY}0`."),
    "negative steps": ({"unfreeze_every": -2}, f"{EVERY}-2`."),
    "steps of True": ({"unfreeze_every": True}, f"{EVERY}True`."),
    "broken steps": ({"unfreeze_every": 2.0}, f"{EVERY}2.0`."),
    "an unknown word": ({"unfreeze_every": "epochs"}, f"{EVERY}'epochs'`."),
    "both ways at once": (
        {"unfreeze_every": 2, "schedule": Linear(0.0, 1.0)},
        "Parameter `schedule` should be omitted if `unfreeze_every` is given. "
        "Found `schedule = Linear(0, 1, begin=0, finish=1)`, `unfreeze_every = 2`.",
    ),
    "a schedule that leaves [0, 1]": (
        {"schedule": Linear(-0.5, 1.0)},
        "Parameter `schedule` should be in [0, 1]. Found `schedule = Linear(-0.5, 1, begin=0, finish=1)`.",
    ),
    "a schedule in words": (
        {"schedule": "linear"},
        "Parameter `schedule` should be a number or a schedule. Found `'linear'`.",
    ),
    "a schedule that follows depth": (
        {"schedule": TopDown()},
        "Parameter `schedule` should be the same at every depth. Found `schedule = TopDown(1, 0, width=0.5)`.",
    ),
    "no layers": ({"layers": []}, "Parameter `layers` should hold a pattern per layer. Found `layers = []`."),
}


@cases(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_an_argument_outside_its_range_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError) as refused:
        GradualUnfreezing(**arguments)
    assert str(refused.value) == message


def test_the_default_needs_the_number_of_steps():
    message = (
        "Parameter `total_steps` should be given for `GradualUnfreezing` with a schedule over training "
        r"\(Linear\(0, 1, begin=0, finish=1\)\). Found `total_steps = None`."
    )
    with pytest.raises(ConfigurationError, match=message):
        GradientEngine(tiny_bert(), GradualUnfreezing())


def test_unfreezing_by_epoch_needs_the_epoch():
    model = tiny_bert()
    engine = GradientEngine(model, GradualUnfreezing(unfreeze_every="epoch"))
    message = "Parameter `epoch` of the window should be given with `unfreeze_every = 'epoch'`."
    with pytest.raises(ConfigurationError, match=message), engine.window(0):
        engine.apply_()


def test_a_model_without_layers_is_refused():
    with pytest.raises(ConfigurationError, match="Found no list of blocks in `Linear`"):
        GradientEngine(nn.Linear(2, 2), GradualUnfreezing(unfreeze_every=1))
