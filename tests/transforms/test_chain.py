"""Chain: the order matters, names are addresses, and incompatible members are refused."""

from typing import Any

import pytest
import torch

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GlobalNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    Identity,
    LayerGradDrop,
    Linear,
    ValueClip,
)
from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.transforms import Gradients, Window
from tests import reference
from tests.cases import cases
from tests.transforms.golden.grad_drop import drop_entries
from tests.transforms.small import (
    Small,
    apply,
    assert_equals_reference,
    assert_same_bits,
    engine_for,
    layout_of,
    run,
    set_gradients,
    snapshot,
    values_of,
    window_of,
)

MASK, CLIP = GradDrop(0.5), ComponentNormClip(0.5)
SLOW_MASK, SLOW_CLIP = drop_entries(0.5), reference.clip_norms(0.5, "projection")


# ---------------------------------------------------------------- order
ORDERS: dict[str, tuple[Chain, list[reference.Reference]]] = {
    "mask, clip": (Chain([MASK, CLIP]), [SLOW_MASK, SLOW_CLIP]),
    "clip, mask": (Chain([CLIP, MASK]), [SLOW_CLIP, SLOW_MASK]),
    "named mask, clip": (Chain({"z": MASK, "a": CLIP}), [SLOW_MASK, SLOW_CLIP]),
    "named clip, mask": (Chain({"z": CLIP, "a": MASK}), [SLOW_CLIP, SLOW_MASK]),
    "nested": (Chain({"z": Chain([CLIP]), "a": Chain({"b": Identity(), "a": MASK})}), [SLOW_CLIP, SLOW_MASK]),
}


@cases(("chain", "slow"), ORDERS.values(), ids=ORDERS)
def test_transforms_are_applied_in_the_order_of_the_text(chain: Chain, slow: list[reference.Reference]):
    model = Small()
    engine = engine_for(model, chain)
    set_gradients(model, 0)
    expected = reference.InOrder(*slow)(values_of(model), window_of(0), layout_of(model))
    apply(engine, 0)
    assert_equals_reference(model, expected)


def test_masking_before_clipping_differs_from_clipping_before_masking():
    first, second = run(Chain([MASK, CLIP]), steps=[0])[0], run(Chain([CLIP, MASK]), steps=[0])[0]
    assert all(
        not torch.allclose(first[name], second[name], rtol=0.01)  # type: ignore[arg-type]  # entries are never dropped whole
        for name in ("embeddings.weight", "blocks.0.output.weight", "head.weight")
    )


def test_a_list_and_a_mapping_are_the_same():
    listed, named = run(Chain([MASK, CLIP])), run(Chain({"mask": MASK, "clip": CLIP}))
    for step, gradients in listed.items():
        assert_same_bits(gradients, named[step])


def test_grouping_does_not_matter():
    third = ValueClip(0.1)
    flat, nested = run(Chain([MASK, CLIP, third])), run(Chain([Chain([MASK, CLIP]), Chain([third])]))
    for step, gradients in flat.items():
        assert_same_bits(gradients, nested[step])


def test_what_a_mask_dropped_whole_is_not_part_of_a_later_norm():
    model = Small()
    engine = engine_for(model, Chain([LayerGradDrop(1.0), GlobalNormClip(1e-3)]))
    set_gradients(model, 0)
    head = torch.cat(
        [p.grad.flatten() for p in (model.temperature, model.head.weight, model.head.bias) if p.grad is not None]
    )
    apply(engine, 0)
    assert float(engine.statistics["norm_before/all"]) == pytest.approx(float(head.norm()), rel=1e-6)


# ---------------------------------------------------------------- what it is made of
def test_transforms_of_a_list_are_named_by_class_and_numbered_where_a_class_comes_twice():
    chain = Chain([GradDrop(0.1), ValueClip(1.0), GradDrop(0.2, seed=1)])
    assert list(chain.transforms) == ["GradDrop_0", "ValueClip", "GradDrop_2"]


def test_a_chain_needs_what_its_transforms_need():
    chain = Chain([Chain([GradDrop(Linear(0.5, 0.1), seed=3)]), LayerGradDrop(0.5), ValueClip(1.0)])
    assert chain.needs_total_steps
    assert chain.seeds == (("GradDrop", 3), ("LayerGradDrop", None))
    assert chain.bounds == {"value"}
    with pytest.raises(ConfigurationError, match="Parameter `total_steps` should be given for `GradDrop`"):
        GradientEngine(Small(), chain)


def test_statistics_that_several_report_are_told_apart_by_name():
    model = Small()
    engine = engine_for(model, Chain({"entries": GradDrop(0.5), "layers": LayerGradDrop(0.5), "bound": ValueClip(0.5)}))
    set_gradients(model, 0)
    apply(engine, 0)
    assert set(engine.statistics) == {"entries/kept", "layers/kept", "clipped"}


class Counting(GradientTransform):
    """Counts its windows, and has to remember them."""

    def __init__(self) -> None:
        self.count = 0

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_the_state_of_each_transform_finds_its_way_back():
    def engine() -> GradientEngine:
        return engine_for(Small(), Chain({"first": Counting(), "inner": Chain({"second": Counting()})}))

    before, after = engine(), engine()
    apply(before, 0)
    apply(before, 1)
    assert before.state_dict()["transform"] == {"first": {"count": 2}, "inner": {"second": {"count": 2}}}
    after.load_state_dict(before.state_dict())
    assert after.state_dict() == before.state_dict()


# ---------------------------------------------------------------- refusals
NO_TRANSFORM: Any = "GradDrop"
REFUSED = {
    "nothing": ([], "Parameter `transforms` should hold a transform. Found `[]`."),
    "an empty mapping": ({}, "Parameter `transforms` should hold a transform. Found `{}`."),
    "a single transform": (
        GradDrop(0.5),
        "Parameter `transforms` should be a list, or map names to transforms. Found `GradDrop(rate=0.5)`.",
    ),
    "a class name": (
        {"mask": NO_TRANSFORM},
        "Parameter `transforms` should hold gradient transforms. Found `mask = 'GradDrop'`.",
    ),
    "two norm clips": (
        {"cgnc": ComponentNormClip(0.1), "mask": GradDrop(0.5), "global": GlobalNormClip(1.0)},
        "at most one clip of gradient norms: the second would change what the first has bounded. "
        "Found `cgnc` and `global`.",
    ),
    "a nested second norm clip": (
        [ComponentNormClip(0.1), Chain([GlobalNormClip(1.0)])],
        "at most one clip of gradient norms: the second would change what the first has bounded. "
        "Found `ComponentNormClip` and `Chain`.",
    ),
    "two value clips": ([ValueClip(0.1), ValueClip(0.2)], "at most one clip of gradient values"),
    "two masks by the run's seed": (
        [GradDrop(0.1), GradDrop(0.2, granularity="row")],
        "Parameter `seed` should differ between the `GradDrop` of a chain, which would drop the same entries. "
        "Found `seed = None` 2 times.",
    ),
    "a nested second mask of one seed": (
        [LayerGradDrop(0.1, seed=4), Chain([LayerGradDrop(0.2, seed=4)])],
        "Parameter `seed` should differ between the `LayerGradDrop` of a chain, which would drop the same entries. "
        "Found `seed = 4` 2 times.",
    ),
}


@cases(("transforms", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_chained_is_refused(transforms: Any, message: str):
    with pytest.raises(ConfigurationError) as refused:
        Chain(transforms)
    assert message in str(refused.value)


def test_a_seed_that_equals_the_run_s_is_refused_where_the_run_is_known():
    chain = Chain([GradDrop(0.5), GradDrop(0.5, seed=7)])
    message = r"Parameter `seed` should differ between the `GradDrop` of a chain.* Found `seed = 7` 2 times\."
    with pytest.raises(ConfigurationError, match=message):
        GradientEngine(Small(), chain, seed=7)
    engine = GradientEngine(Small(), chain, seed=8)
    with pytest.raises(ConfigurationError, match=message):
        engine.load_state_dict({"seed": 7})
    assert engine.seed == 8


def test_clips_of_different_kinds_and_masks_of_different_classes_go_together():
    chain = Chain([GradDrop(0.5), LayerGradDrop(0.5), GradDrop(0.5, seed=1), GlobalNormClip(1.0), ValueClip(0.1)])
    model = Small()
    engine = engine_for(model, chain)
    set_gradients(model, 0)
    apply(engine, 0)
    left = torch.cat([gradient.flatten() for gradient in snapshot(model).values() if gradient is not None])
    assert 0 < float(left.norm()) <= 1 + 1e-5
    assert float(left.abs().max()) == pytest.approx(0.1)
