"""Identity, and the limits in which every other strategy equals it: bit for bit, without a kernel launch."""

from math import inf
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_sparsegrad import (
    AdaGC,
    AutoClip,
    Chain,
    ComponentNormClip,
    Constant,
    GlobalNormClip,
    GradDrop,
    GradientTransform,
    GradualUnfreezing,
    Identity,
    LayerGradDrop,
    Linear,
    SpikeSkip,
    ValueClip,
    ZClip,
)
from lightning_sparsegrad.components.partition import ComponentKind
from tests.cases import cases
from tests.transforms.small import Small, apply, assert_same_bits, engine_for, set_gradients, snapshot

KINDS: tuple[ComponentKind, ...] = ("projection", "tensor", "module", "block")
LIMITS: dict[str, GradientTransform] = {
    "Identity": Identity(),
    **{
        f"GradDrop by {unit}{', rescaled' if rescale else ''}": GradDrop(0.0, granularity=unit, rescale=rescale)
        for unit in ("element", "row", "tensor", "component")
        for rescale in (False, True)
    },
    "GradDrop scheduled": GradDrop(Linear(0.0, 0.0)),
    "LayerGradDrop": LayerGradDrop(0.0),
    "GradualUnfreezing of all": GradualUnfreezing(schedule=Constant(1.0)),
    **{f"ComponentNormClip by {kind}": ComponentNormClip(inf, components=kind) for kind in KINDS},
    "ComponentNormClip of the largest entry": ComponentNormClip(inf, norm_type=inf),
    "ComponentNormClip overridden": ComponentNormClip(inf, overrides={"*.bias": inf}),
    "GlobalNormClip": GlobalNormClip(inf),
    "ValueClip": ValueClip(inf),
    "Chain": Chain([GradDrop(0.0), GlobalNormClip(inf), LayerGradDrop(0.0), ValueClip(inf)]),
}


LEARNT: dict[str, GradientTransform] = {
    "AutoClip": AutoClip(100.0),
    "ZClip": ZClip(inf, warmup_steps=1, max_norm=inf),
    "AdaGC": AdaGC(inf, warmup_steps=1, max_norm=inf),
    "AdaGC of all": AdaGC(inf, max_norm=inf, components="global"),
    "SpikeSkip": SpikeSkip(inf, warmup_steps=2),
}


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations on tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def _set_odd_bits(model: Small) -> None:
    """Fill the gradients with values that arithmetic changes: -0.0, infinities, and two kinds of NaN."""
    odd = torch.tensor([-(1 << 31), 0x7F800000, -0x800000, 0x7FC00001, 0x7F800001, 1], dtype=torch.int32)
    for parameter in model.parameters():
        words = odd.repeat(parameter.numel() // len(odd) + 1)[: parameter.numel()]
        parameter.grad = words.view(torch.float32).view(parameter.shape).to(parameter.dtype)


@cases("transform", LIMITS.values(), ids=LIMITS)
def test_at_its_limit_a_strategy_changes_no_bit_and_launches_nothing(transform: GradientTransform):
    model = Small()
    engine = engine_for(model, transform)
    _set_odd_bits(model)
    before = snapshot(model)
    with Launches() as launches:
        apply(engine, 1)
    assert launches.names == []
    assert_same_bits(snapshot(model), before)


@cases("transform", LEARNT.values(), ids=LEARNT)
@cases("dtype", [torch.float32, torch.float64], ids=str)
def test_at_its_limit_a_strategy_that_learns_changes_no_bit(transform: GradientTransform, dtype: torch.dtype):
    model = Small().to(dtype)
    engine = engine_for(model, transform)
    for step in range(6):
        if step % 2:
            set_gradients(model, step, scale={1: 1.0, 3: 1e-3, 5: 1e30}[step])
        else:
            _set_odd_bits(model)
        before = snapshot(model)
        apply(engine, step)
        assert_same_bits(snapshot(model), before)
        assert float(engine.statistics.get("clipped", torch.zeros(()))) == 0


@cases("transform", LIMITS.values(), ids=LIMITS)
def test_at_its_limit_a_strategy_reports_that_it_kept_all_and_clipped_none(transform: GradientTransform):
    model = Small()
    engine = engine_for(model, transform)
    set_gradients(model, 1)
    apply(engine, 1)
    for name, value in engine.statistics.items():
        assert name.rpartition("/")[2] in {"kept", "clipped"}
        assert float(value) == (1 if "kept" in name else 0)


def test_launches_are_counted():
    model = Small()
    engine = engine_for(model, GradDrop(0.5))
    set_gradients(model, 1)
    with Launches() as launches:
        apply(engine, 1)
    assert "aten.mul_.Tensor" in launches.names
