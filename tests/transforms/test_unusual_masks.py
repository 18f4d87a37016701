"""SparseMask where its calibration, its state or its file are not as usual."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_sparsegrad import FixedMask, GradientEngine, NamedParameters, SparseMask, TrainableRows
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases


def small() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def calibrated(windows: int = 3, density: float = 0.25, **arguments: Any) -> SparseMask:
    return SparseMask(density, exclude_head=False, calibration_windows=windows, **arguments)


def run(engine: GradientEngine, steps: Iterable[int], *, broken: int | None = None) -> None:
    """Step through windows, one of them with gradients that are not finite."""
    model = engine.parameters.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    engine.attach(optimizer)
    for step in steps:
        with engine.window(step):
            loss = model(torch.linspace(-1, 1, 20).view(5, 4) * (step + 1)).square().sum()
            (loss * torch.nan if step == broken else loss).backward()
            engine.apply_()
        optimizer.step()
        optimizer.zero_grad()


# ---------------------------------------------------------------- calibration
@cases(
    ("steps", "broken"),
    [(range(6), 2), (range(0, 12, 2), None)],
    ids=["the last is left out", "two optimizers step in each"],
)
@cases("density", [0.25, 0.01])
def test_a_calibration_without_the_window_of_the_last_number_ends(steps: range, broken: int | None, density: float):
    model = small()
    engine = GradientEngine(model, calibrated(density=density), nonfinite="skip")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    run(engine, steps, broken=broken)
    masks = engine.transform.masks  # type: ignore[attr-defined]  # of a SparseMask
    assert sum(int(mask.sum()) for mask in masks.values()) == max(1, round(density * 23))
    for name, weight in model.named_parameters():
        moved = weight.detach() != before[name]
        assert torch.equal(moved, moved & masks[name])
        assert moved.any() or not masks[name].any()


def test_a_calibration_of_an_embedding_with_a_largest_norm_is_refused_before_it_begins():
    model = nn.Sequential(nn.Embedding(4, 3, max_norm=1.0), nn.Linear(3, 2))
    with pytest.raises(ConfigurationError, match="`max_norm` of embeddings should be None"):
        GradientEngine(model, calibrated())
    GradientEngine(model, calibrated(exclude=["0.*"]))


def test_a_calibration_in_which_all_gradients_are_zero_chooses_nothing():
    model = small()
    engine = GradientEngine(model, calibrated(windows=1))
    (model(torch.ones(2, 4)).sum() * 0).backward()
    engine.open(0)
    with pytest.raises(ConfigurationError, match=r"scores that are not zero.* Found zeros alone in 1 of them"):
        engine.apply_()


# ---------------------------------------------------------------- steps
def test_a_tensor_that_requires_a_gradient_later_is_no_part_of_the_share():
    model = small()
    model[0].weight.requires_grad_(False)
    engine = GradientEngine(model, SparseMask(0.5, score="weight", exclude_head=False))
    run(engine, range(2))
    model[0].weight.requires_grad_(True)
    with pytest.raises(ConfigurationError, match=r"Found `0.weight`, which was made to require one later"):
        run(engine, range(2, 3))


def test_an_optimizer_that_changes_weights_outside_its_steps_is_refused():
    class ScheduleFree(torch.optim.SGD):
        def eval(self) -> None:
            """Move the weights to the averages."""

    model = small()
    engine = GradientEngine(model, TrainableRows({"0.weight": [1]}))
    with pytest.raises(ConfigurationError, match="Found `ScheduleFree`, which also does in its method `eval`"):
        engine.attach(ScheduleFree(model.parameters(), lr=0.1))


# ---------------------------------------------------------------- states
def test_a_calibration_does_not_go_on_with_another_score():
    engine = GradientEngine(small(), calibrated())
    run(engine, range(2))
    other = GradientEngine(small(), calibrated(score="gradient"))
    with pytest.raises(ConfigurationError, match="`score` should be 'fisher', as in the checkpoint"):
        other.load_state_dict(engine.state_dict())


@cases(
    "break_",
    [
        lambda state: state["scores"].update({"0.weight": torch.zeros(4)}),
        lambda state: state["scores"].update({"0.weight": None}),
        lambda state: state.update(scores=[1]),
        lambda state: state.update(windows="two"),
        lambda state: state.pop("windows"),
    ],
    ids=["shape", "no tensor", "list", "text", "missing"],
)
def test_scores_that_are_none_are_refused(break_: Callable[[dict[str, Any]], None]):
    engine = GradientEngine(small(), calibrated())
    run(engine, range(2))
    state = engine.state_dict()
    break_(state["transform"])
    with pytest.raises(ConfigurationError, match="Parameter `state` should hold"):
        GradientEngine(small(), calibrated()).load_state_dict(state)


@cases(
    "break_",
    [
        lambda state: state["masks"]["0.weight"].update(bits=[1, 2]),
        lambda state: state["masks"]["0.weight"].update(shape=[4, 4]),
        lambda state: state.update(masks=[1]),
        lambda state: state.update(masks=None),
    ],
    ids=["no bits", "shape", "list", "none"],
)
def test_masks_that_are_none_are_refused(break_: Callable[[dict[str, Any]], None]):
    engine = GradientEngine(small(), calibrated())
    run(engine, range(4))
    state = engine.state_dict()
    break_(state["transform"])
    with pytest.raises(ConfigurationError, match="Parameter `state` should hold the bits of masks"):
        GradientEngine(small(), calibrated()).load_state_dict(state)


# ---------------------------------------------------------------- files and arguments
def test_what_is_excluded_from_a_mask_file_trains_as_usual(tmp_path: Path):
    save_file({"0.weight": torch.zeros(3, 4), "2.weight": torch.eye(2, 3)}, tmp_path / "mask.safetensors")
    file = str(tmp_path / "mask.safetensors")
    engine = GradientEngine(small(), SparseMask(score=file, exclude="0.*"))
    assert engine.transform.masks.keys() == {"2.weight"}  # type: ignore[attr-defined]  # of a SparseMask
    with pytest.raises(ConfigurationError, match=r"Found `nothing\.\*`, which matches none"):
        GradientEngine(small(), SparseMask(score=file, exclude="nothing.*"))


def test_a_resumed_run_keeps_its_mask_though_the_file_was_changed(tmp_path: Path):
    file = str(tmp_path / "mask.safetensors")
    save_file({"0.weight": torch.eye(3, 4)}, file)
    state = GradientEngine(small(), SparseMask(score=file)).state_dict()
    save_file({"0.weight": torch.ones(3, 4)}, file)
    engine = GradientEngine(small(), SparseMask(score=file))
    engine.load_state_dict(state)
    assert torch.equal(engine.transform.masks["0.weight"], torch.eye(3, 4).bool())  # type: ignore[attr-defined]


def test_a_file_of_a_task_is_one_of_its_model_and_the_reverse(tmp_path: Path):
    file = str(tmp_path / "mask.safetensors")
    save_file({"model.0.weight": torch.eye(3, 4)}, file)
    assert GradientEngine(small(), SparseMask(score=file)).transform.masks.keys() == {"0.weight"}  # type: ignore[attr-defined]
    save_file({"0.weight": torch.eye(3, 4)}, file)
    task = nn.ModuleDict({"model": small()})
    assert GradientEngine(task, SparseMask(score=file)).transform.masks.keys() == {"model.0.weight"}  # type: ignore[attr-defined]


def test_all_rows_of_a_head_train_beside_some_of_another_tensor():
    engine = GradientEngine(small(), TrainableRows({"0.weight": [1], "2.*": "all"}, others="frozen"))
    trained = {name: mask.sum() for name, mask in engine.transform.masks.items()}  # type: ignore[attr-defined]
    assert trained == {"0.weight": 1, "0.bias": 0, "2.weight": 2, "2.bias": 2}


def test_two_masks_of_a_tied_tensor_have_to_be_the_same(tmp_path: Path):
    model = nn.Sequential(nn.Embedding(3, 3), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    file = str(tmp_path / "mask.safetensors")
    save_file({"0.weight": torch.eye(3), "1.weight": torch.eye(3)}, file)
    GradientEngine(model, SparseMask(score=file))
    save_file({"0.weight": torch.eye(3), "1.weight": torch.ones(3, 3)}, file)
    with pytest.raises(ConfigurationError, match=r"Found two for `0.weight`, which is `1.weight` too"):
        GradientEngine(model, SparseMask(score=file))


def test_a_path_that_is_no_text_is_refused_as_such(tmp_path: Path):
    save_file({"0.weight": torch.ones(3, 4)}, tmp_path / "mask.safetensors")
    with pytest.raises(ConfigurationError, match="which is no text"):
        SparseMask(score=tmp_path / "mask.safetensors")  # type: ignore[arg-type]


def test_empty_parameters_have_a_description():
    model = small()
    model.register_parameter("empty", nn.Parameter(torch.zeros(0, 3)))
    engine = GradientEngine(model, TrainableRows({"0.weight": [1]}, others="frozen"))
    row = next(row for row in engine.describe(10).tensors if row.name == "empty")
    assert row.trained == 0


def test_an_index_beyond_all_numbers_is_refused():
    with pytest.raises(ConfigurationError, match=r"should hold indices below 3, the rows of `0.weight`"):
        GradientEngine(small(), TrainableRows({"0.weight": [1 << 70]}))


class Own(FixedMask):
    """A strategy of a user, with a mask of theirs."""

    def __init__(self, name: str, mask: Tensor) -> None:
        super().__init__()
        self.name, self.mask = name, mask

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        super().bind(parameters, total_steps=total_steps)
        self.hold_(self.name, self.mask)


@cases(
    ("name", "mask", "message"),
    [
        ("wieght", torch.ones(2, 3, dtype=torch.bool), r"Found `wieght`\. Near matches: `weight`"),
        ("weight", torch.ones(2, 3), r"`weight` should be of torch\.bool\. Found torch\.float32"),
        ("weight", torch.ones(3, dtype=torch.bool), r"Found shape \(3,\)"),
    ],
)
def test_masks_that_fit_no_parameter_are_refused(name: str, mask: Tensor, message: str):
    with pytest.raises(ConfigurationError, match=message):
        GradientEngine(nn.Linear(3, 2), Own(name, mask))


def test_a_model_without_zeros_to_keep_is_reported():
    model = nn.Linear(3, 2)
    with pytest.warns(UserWarning, match="freezes nothing, as no weight is zero"):
        GradientEngine(model, SparseMask(score="nonzero", exclude_head=False))
    prune.l1_unstructured(model, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    prune.remove(model, "weight")  # type: ignore[no-untyped-call]
    mask = GradientEngine(model, SparseMask(score="nonzero", exclude_head=False)).transform
    assert isinstance(mask, SparseMask)
    assert int(mask.masks["weight"].sum()) == 3


def test_rows_in_an_array_are_refused():
    rows: Any = {"weight": np.array([0, 1])}
    with pytest.raises(ConfigurationError, match="should hold for each pattern a list of rows"):
        TrainableRows(rows)
