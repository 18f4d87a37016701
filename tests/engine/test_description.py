"""What a description holds that no overlay shows: long trainings, frozen tensors, strategies of users, its text."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GlobalNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    LayerGradDrop,
    Linear,
    NamedParameters,
    TrainableRows,
)
from lightning_sparsegrad.engine import Description
from lightning_sparsegrad.transforms.base import Gradients, Window
from tests.engine.test_described_runs import STEPS, require_trained_as_described, run
from tests.tiny import tiny_bert, tiny_gpt2, tiny_gpt2_classifier


def described(transform: GradientTransform, steps: int = 10, **settings: Any) -> Description:
    return GradientEngine(tiny_bert(), transform, total_steps=steps, **settings).describe()


def test_long_trainings_are_asked_in_part_and_changes_are_exact() -> None:
    model, steps = tiny_bert(num_labels=2), 12_345
    engine = GradientEngine(model, GradualUnfreezing(), total_steps=steps)
    description = engine.describe()
    assert description.asked == 1000
    for row in description.tensors:
        first = row.first_step
        assert first is not None
        around = [step for step in (first - 1, first) if step >= 0]
        dropped = [engine.transform.dropped(Window(step, total_steps=steps)) for step in around]
        assert [row.name in names for names in dropped] == [True, False][-len(around) :], row.name
    assert len({row.first_step for row in description.tensors}) == 5
    assert "block 2      " in str(description)
    assert f"from step {max(row.first_step or 0 for row in description.tensors):,}" in str(description)
    assert "12,345 steps, of which 1,000 were asked; " in str(description)


class Stated(GradientTransform):
    """A strategy that drops a tensor by a rule."""

    def __init__(self, drops: Callable[[int], bool]) -> None:
        self.drops = drops

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        pass

    def dropped(self, window: Window) -> frozenset[str]:
        return frozenset({"weight"} if self.drops(window.step) else ())


RULES: dict[str, Callable[[int], bool]] = {
    "every second": lambda step: step % 2 == 0,
    "every second, but the first": lambda step: step % 2 == 1,
    "ten of twenty": lambda step: step // 10 % 2 == 0,
    "two of seven": lambda step: step % 7 < 2,
}


@pytest.mark.parametrize("steps", [1001, 1999, 10_000, 9991])
@pytest.mark.parametrize("rule", RULES)
def test_a_period_is_seen_to_pause(rule: str, steps: int) -> None:
    engine = GradientEngine(nn.Linear(2, 2), Stated(RULES[rule]), total_steps=steps)
    description = engine.describe()
    (row,) = (row for row in description.tensors if row.name == "weight")
    trained = [step for step in range(steps) if not RULES[rule](step)]
    assert row.trained == pytest.approx(len(trained) / steps, abs=0.05)
    assert (row.first_step, row.last_step, row.pauses) == (None, None, True)
    assert f"about {row.trained:.0%} of steps" in description._when(row)


@pytest.mark.parametrize("back", range(1992, 1999))
def test_a_change_and_back_close_to_another_is_no_single_change(back: int) -> None:
    engine = GradientEngine(nn.Linear(2, 2), Stated(lambda step: step < 2000 and step != back), total_steps=4000)
    (row,) = (row for row in engine.describe().tensors if row.name == "weight")
    assert (row.first_step, row.last_step, row.pauses) == (None, None, True)


@pytest.mark.parametrize("first", [0, 1, 2, 3, 17, 4999, 9998, 9999])
@pytest.mark.parametrize("length", [3, 100, 10_000])
def test_steps_of_a_long_training_are_exact_where_they_are_stated(first: int, length: int) -> None:
    last = min(first + length, 10_000) - 1
    engine = GradientEngine(nn.Linear(2, 2), Stated(lambda step: not first <= step <= last), total_steps=10_000)
    (row,) = (row for row in engine.describe().tensors if row.name == "weight")
    if row.first_step is None:
        assert length == 3
    else:
        assert (row.first_step, row.last_step, row.pauses) == (first, last, False)
        assert row.trained == (last - first + 1) / 10_000


def test_rare_windows_of_a_sample_are_no_stretch() -> None:
    engine = GradientEngine(tiny_bert(num_labels=2), LayerGradDrop(0.999), total_steps=100_000, seed=1)
    description = engine.describe()
    rows = [row for row in description.tensors if row.layer != "head" and 0 < row.trained < 1]
    assert rows
    assert {(row.first_step, row.last_step, row.pauses) for row in rows} == {(None, None, True)}
    assert "about 0." in str(description)


def test_sizes_and_shares_of_a_sample_are_estimates() -> None:
    for steps, word in ((1000, "at most"), (1001, "about")):
        text = str(GradientEngine(tiny_bert(num_labels=2), HeadOnly(), total_steps=steps).describe())
        assert f"in the first window, {word} " in text
        assert ("at most" in text) == (steps == 1000)
        assert ("skipped    about " in text) == (steps == 1001)


def test_the_first_window_of_a_sample_stands_for_itself() -> None:
    engine = GradientEngine(nn.Linear(2, 2), Stated(lambda step: step > 0), total_steps=100_000)
    (row,) = (row for row in engine.describe().tensors if row.name == "weight")
    assert row.trained == pytest.approx(1 / 100_000)
    assert row.computed == pytest.approx(1 / 100_000)


def test_one_is_singular_and_an_unknown_length_is_stated() -> None:
    text = str(GradientEngine(nn.Linear(1, 1, bias=False), ComponentNormClip(0.5)).describe(1))
    assert "\n1 step; 1 parameter in 1 tensor, all train\n" in text
    text = str(GradientEngine(nn.Linear(2, 2), Stated(lambda step: step != 3)).describe())
    assert "\nthe first 1,000 steps of a training of unknown length; 6 parameters in 2 tensors" in text
    (row,) = (r for r in GradientEngine(nn.Linear(2, 2), Stated(lambda s: s != 3)).describe(9).tensors if r.trained < 1)
    assert GradientEngine(nn.Linear(2, 2), Stated(lambda s: s != 3)).describe(9)._when(row) == "step 3"


def test_what_the_model_freezes_never_trains_and_takes_no_memory() -> None:
    model = tiny_bert(num_labels=2)
    for parameter in cast("Any", model).bert.embeddings.parameters():
        parameter.requires_grad_(False)
    description = GradientEngine(model, ComponentNormClip(0.1)).describe(5)
    frozen = {row.name for row in description.tensors if not row.requires_grad}
    assert frozen == {row.name for row in description.tensors if row.layer == "embeddings"}
    assert all(
        row.first_step is None and row.trained == row.computed == 0 for row in description.tensors if row.name in frozen
    )
    trained = sum(row.entries for row in description.tensors if row.name not in frozen)
    assert (description.memory.gradients_first, description.memory.moments) == (4 * trained, 8 * trained)
    assert "never: requires_grad=False" in str(description)


class Damped(GradientTransform):
    """A strategy of a user's, which states nothing but its schedule."""

    def __init__(self, factor: Linear) -> None:
        self.factor, self.settled = factor, 3.0

    @property
    def schedules(self) -> tuple[Linear]:
        return (self.factor,)

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.kept = torch.zeros(5, dtype=torch.float64)

    def apply_(self, gradients: Gradients, window: Window) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"nested": [{"kept": self.kept}], "number": 3}


class Calibrated(GradientTransform):
    """A strategy that calibrates in its first windows."""

    phases = frozenset({"calibration", "gradient"})

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        pass

    def calibrates(self, window: Window) -> bool:
        return window.step < 3


class Misnamed(Damped):
    def settings(self, window: Window) -> dict[str, dict[str, float]]:
        return {"factor": {"no.such.weight": 1.0}}


def test_a_strategy_of_the_users_is_described_by_its_schedules_and_its_state() -> None:
    description = described(Damped(Linear(1.0, 0.5)))
    (row,) = description.settings
    assert (row.name, row.component, row.unit, row.first, row.last) == ("factor", "all", "model", 1.0, 0.5)
    assert description.memory.strategy == 40
    assert "factor  all" in str(description)
    assert "40 B of its own" in str(description)
    with pytest.raises(ConfigurationError, match=r"no\.such\.weight"):
        described(Misnamed(Linear(1.0, 0.5)))


def test_nothing_trains_in_windows_of_a_calibration() -> None:
    description = described(Calibrated())
    assert description.calibrating == 3
    assert {row.first_step for row in description.tensors} == {3}
    assert "calibrates in 30.0% of the windows" in str(description)


def test_tensors_of_which_some_entries_train_are_said_to_train_in_part() -> None:
    some = GradientEngine(nn.Linear(3, 2), TrainableRows({"weight": [0]})).describe(STEPS)
    assert "8 parameters in 2 tensors, all train, in part\n" in str(some)
    whole = GradientEngine(nn.Linear(3, 2), TrainableRows({"weight": [0, 1]})).describe(STEPS)
    assert "8 parameters in 2 tensors, all train\n" in str(whole)


def test_members_of_a_chain_have_their_names_and_components_their_extent() -> None:
    clip = ComponentNormClip(0.5, components={"*bias": "biases", "*": "rest"}, overrides={"biases": float("inf")})
    description = described(Chain({"mask": GradDrop(0.25, exclude="*bias"), "clip": clip}))
    masked = [row for row in description.settings if row.column == "mask.rate"]
    assert {row.component for row in masked} == {r.name for r in description.tensors if not r.name.endswith("bias")}
    biases, rest = sorted((row for row in description.settings if row.member == "clip"), key=lambda row: row.component)
    assert (biases.component, biases.layer, rest.first, rest.unit) == ("biases", None, 0.5, "component")
    assert biases.entries + rest.entries == sum(row.entries for row in description.tensors)
    plain = description.as_dict()
    assert [row["first"] for row in plain["settings"] if row["component"] == "biases"] == [None]
    assert "clip.max_norm  biases" in str(description)


def test_components_within_a_tensor_are_counted_by_their_slices() -> None:
    engine = GradientEngine(tiny_gpt2_classifier(), ComponentNormClip(0.5))
    rows = engine.describe(1).settings
    whole = {name: tensor.numel() for name, tensor in engine.parameters.tensors.items()}
    thirds = [row.entries for row in rows if ".c_attn.weight." in row.component]
    assert thirds
    assert sum(row.entries for row in rows) == sum(whole.values())


def test_describing_a_run_leaves_it_as_it_is() -> None:
    runs = []
    for describes in (False, True):
        torch.manual_seed(0)
        model = tiny_bert(num_labels=2)
        engine = GradientEngine(model, LayerGradDrop(0.5), total_steps=STEPS, seed=1)
        if describes:
            engine.describe()
        shown = run(model, engine)
        runs.append((shown.trained, [weight.detach() for weight in model.parameters()]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(one, two) for one, two in zip(runs[0][1], runs[1][1], strict=True))


class Random(Stated):
    """A strategy that draws from the random state of torch, and keeps how often it was asked."""

    learns = True

    def __init__(self) -> None:
        super().__init__(lambda _: bool(torch.rand(()) < 0.5))
        self.asked = torch.zeros(())

    def dropped(self, window: Window) -> frozenset[str]:
        self.asked += 1
        return super().dropped(window)

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked = state["asked"]


def test_describing_restores_the_random_state_and_what_is_committed() -> None:
    engine = GradientEngine(nn.Linear(2, 2), Random(), total_steps=20)
    state = torch.get_rng_state()
    (row, _) = engine.describe().tensors
    assert 0 < row.trained < 1
    assert torch.equal(torch.get_rng_state(), state)
    assert engine.transform.state_dict() == {"asked": 0}


class Undefined(Damped):
    def settings(self, window: Window) -> dict[str, float]:
        return {"factor": float("nan")}


def test_json_holds_no_number_that_json_lacks() -> None:
    plain = described(Undefined(Linear(1.0, 0.5))).as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["settings"][0]["first"] is None


def test_where_nothing_is_skipped_the_description_says_why() -> None:
    assert described(HeadOnly(), skip_dropped=False).obstacle == "`skip_dropped` is off"
    assert {row.computed for row in described(HeadOnly(), skip_dropped=False).tensors} == {1.0}
    assert described(GradDrop(0.5), skip_dropped=False).obstacle is None
    engine = GradientEngine(tiny_bert(num_labels=2), HeadOnly())
    engine.compute_everything("of a reason")
    assert "none, of a reason" in str(engine.describe(5))


def test_what_cannot_be_described_is_refused() -> None:
    engine = GradientEngine(tiny_bert(num_labels=2), GradualUnfreezing(unfreeze_every="epoch"))
    with pytest.raises(ConfigurationError, match="`steps` should be a positive integer"):
        engine.describe(0)
    with pytest.raises(ConfigurationError, match="`steps_per_epoch` should be given"):
        engine.describe(5)
    with engine.window(0, epoch=0):
        with pytest.raises(RuntimeError, match="step 0"):
            engine.describe(5)
        engine.apply_()
    assert not engine.describe(steps_per_epoch=300).is_whole


def test_a_model_without_blocks_is_described_by_its_modules() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    description = GradientEngine(model, ComponentNormClip(0.5)).describe(2)
    assert description.layers == ("0", "1")
    assert str(description).splitlines()[3:] == [
        "layer  parameters  trains     max_norm",
        "0               8  all steps  0.5, each of 2",
        "1               3  all steps  0.5, each of 2",
        "",
        "skipped    none",
        "gradients  44 B",
        "optimizer  88 B in two moments, as Adam keeps",
    ]


def test_a_sharded_model_is_described_as_a_whole_one() -> None:
    whole = GradientEngine(tiny_bert(num_labels=2), Chain([HeadOnly(), ComponentNormClip(0.5)])).describe(3)
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        model = tiny_bert(num_labels=2)
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        sharded = GradientEngine(model, Chain([HeadOnly(), ComponentNormClip(0.5)])).describe(3)
    finally:
        distributed.destroy_process_group()
    assert sharded.obstacle == "FSDP2 reduces the gradients of a module together"
    assert {row.computed for row in sharded.tensors} == {1.0}
    assert [replace(row, computed=0) for row in sharded.tensors] == [replace(row, computed=0) for row in whole.tensors]
    assert sharded.settings == whole.settings
    assert sharded.memory.moments == whole.memory.moments


# ------------------------------------------------------------ rates and shares
WINDOWS = 200
DRAWN: dict[str, GradientTransform] = {
    "layers": LayerGradDrop(0.3),
    "layers, ever less": LayerGradDrop(Linear(0.9, 0.1)),
    "blocks": GradDrop(0.4, granularity="component", components="block"),
    "tensors": GradDrop(Linear(0.2, 0.6), granularity="tensor"),
}


@pytest.mark.long
@pytest.mark.parametrize("model", [tiny_bert, tiny_gpt2])  # of which GPT-2 ties its embeddings to the head
@pytest.mark.parametrize("name", DRAWN)
def test_rates_are_the_shares_of_windows_in_which_tensors_are_dropped(name: str, model: Any) -> None:
    network = model()
    engine = GradientEngine(network, DRAWN[name], total_steps=WINDOWS, seed=5)
    description = engine.describe()
    dropped: dict[str, int] = dict.fromkeys((row.name for row in description.tensors), 0)
    for step in range(WINDOWS):
        for tensor in network.parameters():
            tensor.grad = torch.ones_like(tensor)
        with engine.window(step):
            engine.apply_()
        for tensor_name, tensor in network.named_parameters():
            dropped[tensor_name] += tensor.grad is None
    rates = {row.component: (row.low + row.high) / 2 for row in description.settings}
    for row in description.tensors:
        assert row.trained == pytest.approx(1 - dropped[row.name] / WINDOWS), row.name
        assert dropped[row.name] / WINDOWS == pytest.approx(rates.get(row.name, 0.0), abs=0.15), row.name
    assert len(set(rates.values())) > (1 if "layers" in name else 0)


def test_what_is_dropped_behind_a_clip_that_reads_it_is_computed_all_the_same() -> None:
    torch.manual_seed(0)
    model = tiny_bert(num_labels=2)
    engine = GradientEngine(model, Chain([GlobalNormClip(1.0), HeadOnly()]), total_steps=STEPS)
    description = engine.describe()
    shown = run(model, engine)
    require_trained_as_described(description, shown)
    assert {(row.trained, row.computed) for row in description.tensors if row.layer != "head"} == {(0.0, 1.0)}
