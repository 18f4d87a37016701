"""SparseMask: the mask of every score is that of a slow reference, of exact size, chosen once."""

import re
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sparsegrad import Chain, ConfigurationError, GradientEngine, SparseMask
from tests.cases import cases
from tests.engine.helpers import backward, loss_on, tokens_at
from tests.transforms.frozen import Tiny, loss_at, made, steps_of, weights
from tests.transforms.golden.sparse_mask import TrainTheLargest
from tests.transforms.small import (
    Small,
    apply,
    assert_same_bits,
    engine_for,
    fill_gradients,
    layout_of,
    on_one_thread,
    set_gradients,
    values_of,
    window_of,
)

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

CALIBRATING, OTHERS = ("fisher", "gradient", "movement"), ("weight", "random")
ROWS = [("row", "tensor", True), ("row", "global", False)]
SGD = partial(torch.optim.SGD, lr=0.1)


def only(engine: GradientEngine) -> SparseMask:
    (mask,) = (member for member in engine.transform.flattened() if isinstance(member, SparseMask))
    return mask


def assert_chosen(engine: GradientEngine, does: TrainTheLargest) -> None:
    """Assert that the mask is that of the reference."""
    masks, shapes = only(engine).masks, {name: tensor.shape for name, tensor in engine.parameters.tensors.items()}
    assert does.trains is not None
    assert masks.keys() == does.trains.keys()
    for name, mask in masks.items():
        entries = mask.view(mask.shape + (1,) * (len(shapes[name]) - mask.ndim)).expand(shapes[name])
        assert set(entries.flatten().nonzero().flatten().tolist()) == does.trains[name], name


# ---------------------------------------------------------------- against the reference
@cases(("structure", "scope", "exclude_head"), [("entry", "global", True), ("entry", "tensor", False), *ROWS])
@cases("score", [*CALIBRATING, *OTHERS])
def test_the_mask_is_that_of_sorted_scores(score: str, structure: Any, scope: Any, exclude_head: bool):
    arguments: dict[str, Any] = {"structure": structure, "scope": scope, "exclude_head": exclude_head}
    windows = 2 if score in CALIBRATING else None
    model = Small(tied=structure == "row")
    engine = engine_for(model, SparseMask(0.2, score=score, calibration_windows=windows, **arguments))
    does = TrainTheLargest(0.2, score, windows=windows or 0, **arguments)
    for step in range((windows or 0) + 1):
        model.zero_grad()
        backward(loss_on(model, tokens_at(step)))
        does(values_of(model), window_of(step), layout_of(model))
        apply(engine, step)
    assert_chosen(engine, does)


def test_all_nonzero_entries_of_matrices_train_and_vectors_train_whole():
    model = Small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[::2] = 0.0
            parameter.view(-1)[2::4] = -0.0
    engine, does = engine_for(model, SparseMask(score="nonzero")), TrainTheLargest(None, "nonzero")
    does(values_of(model), window_of(0), layout_of(model))
    assert_chosen(engine, does)
    assert "embeddings.weight" in only(engine).masks
    assert "blocks.0.norm.weight" not in only(engine).masks
    assert only(engine).density is None


@cases("score", CALIBRATING)
def test_a_window_that_is_not_finite_adds_nothing(score: str):
    """Also not to tensors whose own gradient is finite: otherwise each would be of other windows."""
    spoiled, whole = (engine_for(Small(), SparseMask(0.2, score=score, calibration_windows=n)) for n in (3, 2))
    for step in range(3):
        set_gradients(spoiled.parameters.model, step)
        if step == 1:
            spoiled.parameters.model.get_parameter("temperature").grad = torch.tensor(torch.inf)
        apply(spoiled, step)
    for at, step in enumerate((0, 2)):
        set_gradients(whole.parameters.model, step)
        apply(whole, at)
    assert_same_bits(dict(only(spoiled).masks), dict(only(whole).masks))


@cases("score", CALIBRATING)
def test_windows_none_of_which_is_finite_are_refused(score: str):
    model = Small()
    engine = engine_for(model, SparseMask(0.2, score=score, calibration_windows=2))
    fill_gradients(model, float("nan"))
    apply(engine, 0)
    fill_gradients(model, float("inf"))
    with pytest.raises(ConfigurationError, match="should be finite in a calibration window at least"):
        apply(engine, 1)


def test_windows_of_one_sample_sum_the_squares_of_each_as_a_loop_does():
    """The square of a batch's gradient is another number: gradients of samples cancel."""
    samples, model = [tokens_at(step, 1) for step in range(4)], Small()
    scores = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for sample in samples:
        for name, gradient in zip(
            scores, torch.autograd.grad(loss_on(model, sample), [*model.parameters()]), strict=True
        ):
            scores[name] += gradient**2
    by_sample, by_batch = (
        engine_for(Small(), SparseMask(0.15, exclude_head=False, calibration_windows=n)) for n in (4, 1)
    )
    for step, sample in enumerate(samples):
        with by_sample.window(step):
            backward(loss_on(by_sample.parameters.model, sample))
            by_sample.apply_()
    with by_batch.window(0):
        backward(loss_on(by_batch.parameters.model, torch.cat(samples)))
        by_batch.apply_()
    every = torch.cat([score.flatten() for score in scores.values()])
    smallest = every.sort(descending=True).values[round(0.15 * len(every)) - 1]
    masks = only(by_sample).masks
    for name, mask in masks.items():
        assert torch.equal(mask, scores[name] >= smallest), name
    assert any(not torch.equal(mask, only(by_batch).masks[name]) for name, mask in masks.items())


# ---------------------------------------------------------------- how many
@cases("density", [1e-9, 0.001, 0.01, 1 / 3, 0.5, 0.999, 1.0])
@cases("score", OTHERS)
def test_the_count_is_exact_whatever_the_ties(density: float, score: str):
    model = Small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    engine = engine_for(model, SparseMask(density, score=score, exclude_head=False))
    set_gradients(model, 0)
    apply(engine, 0)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(int(mask.sum()) for mask in only(engine).masks.values()) == max(1, round(density * total))


def test_a_density_per_tensor_leaves_an_entry_of_each():
    engine = engine_for(Small(), SparseMask(0.01, score="weight", scope="tensor", exclude_head=False))
    assert {int(mask.sum()) for mask in only(engine).masks.values()} == {1}


def test_random_masks_are_a_function_of_seed_and_name():
    drawn = []
    for seed, own in ((0, None), (0, None), (1, None), (1, 0), (0, 2)):
        engine = GradientEngine(Tiny(), SparseMask(0.3, score="random", seed=own, exclude_head=False), seed=seed)
        optimizer = SGD(engine.parameters.model.parameters())
        engine.attach(optimizer)
        fill_gradients(engine.parameters.model)
        with engine.window(0):
            engine.apply_()
        drawn.append(torch.cat([mask.flatten() for mask in only(engine).masks.values()]))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[4])


# ---------------------------------------------------------------- what is masked
def test_head_frozen_and_excluded_tensors_are_not_masked():
    model = Small()
    model.get_parameter("norm.weight").requires_grad_(False)
    engine = engine_for(model, SparseMask(0.2, score="weight", exclude=["blocks.1.*", "embeddings.*"]))
    assert {name.split(".")[0] for name in only(engine).masks} == {"blocks", "norm"}
    assert "norm.weight" not in only(engine).masks
    assert not any(name.startswith("blocks.1") for name in only(engine).masks)


def test_a_large_head_trains_whole_whatever_the_density():
    """FISH pays for it from the budget, and fails where that is not enough."""
    model = Small()
    engine = engine_for(model, SparseMask(1e-6, score="weight"))
    set_gradients(model, 0)
    apply(engine, 0)
    head = model.get_parameter("head.weight").grad
    assert head is not None
    assert head.all()
    assert sum(int(mask.sum()) for mask in only(engine).masks.values()) == 1


def test_a_tied_embedding_is_no_head():
    masks = only(engine_for(Small(tied=True), SparseMask(0.2, score="weight"))).masks
    assert "embeddings.weight" in masks
    assert "head.bias" not in masks


def test_tensors_without_a_gradient_have_the_smallest_scores():
    """FISH crashes on one: its gradient is `None`."""
    model = Small()
    engine = engine_for(model, SparseMask(0.2, calibration_windows=1))
    set_gradients(model, 0)
    unused = model.get_parameter("blocks.0.output.weight")
    unused.grad = None
    apply(engine, 0)
    assert not only(engine).masks["blocks.0.output.weight"].any()


# ---------------------------------------------------------------- Child-Tuning's way
def test_decay_and_momentum_move_what_only_loses_its_gradient():
    adamw = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    model, engine, stepping = made(
        SparseMask(0.3, score="weight", scope="tensor", freeze="gradients", exclude_head=False), adamw
    )
    by_hand, masks = Tiny(), only(engine).masks
    optimizer = adamw(by_hand.parameters())
    for step in steps_of(engine, model, [stepping], range(5)):
        optimizer.zero_grad()
        torch.autograd.backward(loss_at(step, by_hand))
        for name, parameter in by_hand.named_parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(masks[name])
        optimizer.step()
    assert_same_bits(weights(model), weights(by_hand))
    before = weights(Tiny())
    assert all(
        (weights(model)[name] != before[name])[~mask & (before[name] != 0)].all() for name, mask in masks.items()
    )


# ---------------------------------------------------------------- states
def calibrated(density: float = 0.2, score: str = "fisher", **arguments: Any) -> GradientEngine:
    """Return an engine that has chosen what trains."""
    windows = 1 if score in CALIBRATING else None
    engine = engine_for(Small(), SparseMask(density, score=score, calibration_windows=windows, **arguments))
    set_gradients(engine.parameters.model, 0)
    apply(engine, 0)
    return engine


def test_a_mask_takes_a_bit_per_entry_in_a_state():
    engine = calibrated()
    state = engine.state_dict()["transform"]
    held = sum(each["bits"].numel() for each in state["masks"].values())
    assert held <= sum(-(-mask.numel() // 8) for mask in only(engine).masks.values())
    assert all(each["bits"].dtype == torch.uint8 for each in state["masks"].values())
    assert "scores" not in state


@cases(("score", "density"), [("fisher", 0.3), ("gradient", 0.2), ("weight", 0.2)])
def test_the_mask_of_a_checkpoint_stays_in_a_run_with_another_density_or_score(score: str, density: float):
    engine, state = calibrated(density, score), calibrated().state_dict()
    with pytest.warns(UserWarning, match="The mask of the checkpoint stays"):
        engine.load_state_dict(state)
    assert_same_bits(dict(only(engine).masks), dict(only(calibrated()).masks))


def test_a_random_mask_in_place_of_that_of_a_checkpoint_is_said():
    engine = calibrated(score="random")
    with pytest.warns(
        UserWarning, match=r"`SparseMask\(density=0.2, score='random'\)` draws its own mask. Found a state"
    ):
        engine.load_state_dict(calibrated().state_dict())


def test_weights_that_have_moved_choose_nothing_anew():
    """A resume of Child-Tuning chooses by the weights of the checkpoint."""
    before = calibrated(score="weight")
    model = Small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(1 / (parameter + 7))
    engine = engine_for(model, SparseMask(0.2, score="weight"))
    other = dict(only(engine).masks)
    engine.load_state_dict(before.state_dict())
    assert_same_bits(dict(only(engine).masks), dict(only(before).masks))
    assert any(not torch.equal(mask, only(engine).masks[name]) for name, mask in other.items())


def test_a_run_behind_its_calibration_without_a_mask_is_refused():
    engine = engine_for(Small(), SparseMask(0.2, calibration_windows=2))
    set_gradients(engine.parameters.model, 5)
    with pytest.raises(
        ConfigurationError, match=r"should have a mask after 2 calibration windows.* Found none at step 5"
    ):
        apply(engine, 5)


def test_a_training_that_would_only_calibrate_is_refused():
    with pytest.raises(ConfigurationError, match="should calibrate in fewer windows than the 6 steps of the training"):
        GradientEngine(Small(), SparseMask(0.2, calibration_windows=6), total_steps=6)
    GradientEngine(Small(), SparseMask(0.2, calibration_windows=5), total_steps=6)


def _of(state: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        state = state[key]
    return state


@cases("broken", ["shape", "bits", "missing", "kind"])
def test_a_broken_mask_in_a_checkpoint_is_refused_in_one_line(broken: str):
    state = deepcopy(calibrated().state_dict())
    mask = _of(state, "transform", "masks", "embeddings.weight")
    if broken == "shape":
        mask["shape"] = [3, 4]
    elif broken == "bits":
        mask["bits"] = mask["bits"][:-1]
    elif broken == "kind":
        mask["bits"] = mask["bits"].float()
    else:
        del mask["bits"]
    with pytest.raises(ConfigurationError) as refused:
        calibrated().load_state_dict(state)
    assert "\n" not in str(refused.value)


# ---------------------------------------------------------------- refusals
REFUSED: Sequence[tuple[dict[str, Any], str]] = [
    ({"density": 0.0}, "`density` should be above 0 and at most 1. Found `density = 0.0`"),
    ({"density": 1.5}, "`density` should be above 0 and at most 1. Found `density = 1.5`"),
    ({"density": float("nan")}, "`density` should be"),
    ({}, "`density` should be given with `score = 'fisher'`"),
    ({"density": 0.1, "score": "nonzero"}, "`density` should be left out with `score = 'nonzero'`"),
    ({"density": 0.1, "score": "fischer"}, "`score` should be one of 'fisher', .* or the path of a mask file"),
    ({"density": 0.1, "score": 3}, "`score` should be one of"),
    ({"density": 0.1, "structure": "column"}, "`structure` should be"),
    ({"density": 0.1, "scope": "layer"}, "`scope` should be"),
    ({"density": 0.1, "freeze": "all"}, "`freeze` should be"),
    ({"density": 0.1, "calibration_windows": 0}, "`calibration_windows` should be"),
    ({"density": 0.1, "calibration_windows": 3, "score": "weight"}, "`calibration_windows` should be None"),
    ({"density": 0.1, "seed": -1}, "`seed` should be"),
    ({"density": 0.1, "exclude_head": "no"}, "`exclude_head` should be"),
    ({"score": "nonzero", "structure": "row"}, "`structure` should be"),
    ({"score": "nonzero", "scope": "tensor"}, "`scope` should be"),
]


@cases(("arguments", "message"), REFUSED, ids=lambda case: str(case[0]))
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message):
        SparseMask(**arguments)


@cases(
    ("model", "arguments", "message"),
    [
        (Tiny, {}, "Parameter `exclude_head` should be False .* Found `exclude_head = True` and a `Tiny`"),
        (Small, {"exclude": "nothing.*"}, "`exclude`"),
        (Small, {"exclude": "*"}, r"Found `exclude = \*`, `exclude_head = True`, which leave none"),
    ],
)
def test_models_it_cannot_mask_are_refused(model: type[nn.Module], arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message):
        GradientEngine(model(), SparseMask(0.2, score="weight", **arguments))


def test_two_random_masks_of_one_seed_are_refused():
    with pytest.raises(ConfigurationError, match=re.escape("seed")):
        GradientEngine(Small(), Chain([SparseMask(0.5, score="random"), SparseMask(0.5, score="random")]))


# ---------------------------------------------------------------- upstream
def percentile_mask(scores: Tensor, density: float) -> Tensor:
    """Return the mask as Child-Tuning-D computes it."""
    return scores >= torch.quantile(scores, 1 - density)


def test_a_percentile_takes_more_than_the_share_where_scores_are_equal():
    model = Small()
    with torch.no_grad():
        model.get_parameter("embeddings.weight").fill_(1.0)
    engine = engine_for(model, SparseMask(0.1, score="weight", scope="tensor"))
    weight = model.get_parameter("embeddings.weight").detach()
    assert int(percentile_mask(weight, 0.1).sum()) == 28
    assert int(only(engine).masks["embeddings.weight"].sum()) == 3


def test_a_masked_gradient_alone_does_not_freeze():
    """Child-Tuning, FISH and LT-SFT mask the gradient: weight decay and momentum still move the rest."""
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    mask = torch.zeros_like(model.embedding.weight, dtype=torch.bool)
    for step in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(loss_at(step, model))
        assert model.embedding.weight.grad is not None
        model.embedding.weight.grad *= mask
        optimizer.step()
    before = Tiny().embedding.weight
    assert (model.embedding.weight != before)[before != 0].all()
