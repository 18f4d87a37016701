"""Random chains: of any strategies, nested, in lists and under names."""

from collections.abc import Callable, Sequence
from random import Random

from lightning_sparsegrad import (
    AdaGC,
    AutoClip,
    Chain,
    ComponentNormClip,
    GlobalNormClip,
    GradDrop,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    Identity,
    LayerGradDrop,
    SparseMask,
    SpikeSkip,
    TrainableRows,
    ValueClip,
    ZClip,
)
from tests import reference
from tests.layout import Layout
from tests.soak import strategies
from tests.soak.strategies import Drawn, Setting
from tests.transforms.golden import GOLDEN

DRAWS: dict[type[GradientTransform], Callable[[Setting], Drawn]] = {
    AdaGC: strategies.ada_gc,
    AutoClip: strategies.auto_clip,
    ComponentNormClip: strategies.component_norm_clip,
    GlobalNormClip: strategies.global_norm_clip,
    GradDrop: strategies.grad_drop,
    GradualUnfreezing: strategies.gradual_unfreezing,
    HeadOnly: strategies.head_only,
    Identity: strategies.identity,
    LayerGradDrop: strategies.layer_grad_drop,
    SparseMask: strategies.sparse_mask,
    SpikeSkip: strategies.spike_skip,
    TrainableRows: strategies.trainable_rows,
    ValueClip: strategies.value_clip,
    ZClip: strategies.zclip,
}
# a strategy without a draw of its own is drawn from its golden rows, on the model they are for
OTHERS = [row for row in GOLDEN if type(row.transform) not in {*DRAWS, Chain}]
_LIKELY: dict[type[GradientTransform], float] = {GradDrop: 4, ComponentNormClip: 3, LayerGradDrop: 2}


def draw_chain(rng: Random, layout: Layout, *, layers: Sequence[str], head: Sequence[str]) -> Drawn:
    """Draw a strategy, by itself or in a chain.

    Args:
        rng: Where to draw from.
        layout: The model it is for.
        layers: Globs that may say what its layers are.
        head: Globs that may say what its head is.
    """
    seeds: list[int | None] = list(rng.sample(range(1000), 12))
    seeds.insert(rng.randint(6, 12), None)  # at most one mask goes by the run's seed
    setting = Setting(rng, layout, layers, head, seeds)
    count = rng.choice([1, 1, 2, 2, 3, 4, 5])
    draws = list(DRAWS.values())
    likely = [_LIKELY.get(kind, 1.0) for kind in DRAWS]
    if OTHERS and "blocks.0.norm.weight" in layout.shapes:
        row = rng.choice(OTHERS)
        draws.append(lambda _: Drawn(row.transform, row.reference(), reports=None))
        likely.append(2.0)
    drawn: list[Drawn] = []
    bounds: set[str] = set()
    while len(drawn) < count:
        index = rng.choices(range(len(draws)), likely)[0]
        part = draws[index](setting)
        if not bounds & part.transform.bounds:  # of clips that fight, the first stays
            bounds |= part.transform.bounds
            drawn.append(part)
        if index == len(DRAWS):
            likely[index] = 0.0  # a second one would draw by the same seed
    drawn.sort(key=lambda part: not part.transform.before_clips)  # behind a clip it is refused
    return drawn[0] if count == 1 and rng.random() < 0.7 else _link(rng, drawn)


def _link(rng: Random, parts: list[Drawn]) -> Drawn:
    """Put strategies one behind the other, some of them in a chain within the chain."""
    while len(parts) > 1 and rng.random() < 0.4:
        start = rng.randrange(len(parts))
        end = rng.randint(start + 1, len(parts))
        parts = [*parts[:start], _join(rng, parts[start:end]), *parts[end:]]
    return _join(rng, parts)


def _join(rng: Random, parts: list[Drawn]) -> Drawn:
    transforms = [part.transform for part in parts]
    named = dict(zip(rng.sample(["mask", "clip", "a", "b", "c", "d"], len(parts)), transforms, strict=True))
    chain = Chain(named if rng.random() < 0.5 else transforms)
    does = reference.InOrder(*(part.does for part in parts))
    return Drawn(chain, does, parts=dict(zip(chain.transforms, parts, strict=True)))
