"""Random strategies, each as the library has it and as the slow reference does: the one place that knows both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Any

from lightning_sparsegrad import (
    AdaGC,
    AutoClip,
    ComponentNormClip,
    GlobalNormClip,
    GradDrop,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    Identity,
    LayerGradDrop,
    Schedule,
    SparseMask,
    SpikeSkip,
    TrainableRows,
    ValueClip,
    ZClip,
)
from tests import reference
from tests.layout import Layout
from tests.reference import Rate, Reference, Values, When
from tests.soak.reports import (
    HeldShare,
    LearntNorms,
    Report,
    Spikes,
    clipped_norms,
    clipped_values,
    kept_layers,
    kept_share,
    nothing,
)
from tests.soak.schedules import draw_schedule
from tests.transforms.golden._adaptive import AdaptiveClip
from tests.transforms.golden.ada_gc import ClipToOwnPast
from tests.transforms.golden.auto_clip import ClipToPercentile
from tests.transforms.golden.grad_drop import drop_entries, drop_units
from tests.transforms.golden.gradual_unfreezing import unfreeze
from tests.transforms.golden.head_only import head_only as only_the_head
from tests.transforms.golden.layer_grad_drop import drop_layers
from tests.transforms.golden.sparse_mask import TrainTheLargest
from tests.transforms.golden.spike_skip import LeaveOutSpikes
from tests.transforms.golden.trainable_rows import TrainTheseRows
from tests.transforms.golden.value_clip import clip_values
from tests.transforms.golden.zclip import ClipOutliers


@dataclass(frozen=True)
class Drawn:
    """A strategy, twice, or several in a chain.

    Args:
        transform: As the library has it.
        does: As the reference does.
        reports: What its statistics have to say; `None` if nobody knows.
        masks: Whether it drops single entries or units of them.
        parts: The strategies of a chain by name.
    """

    transform: GradientTransform
    does: Reference = reference.keep_all
    reports: Report | None = nothing
    masks: bool = False
    parts: Mapping[str, "Drawn"] = field(default_factory=dict)

    def leaves(self) -> list["Drawn"]:
        """Return what is in it, in order."""
        return [leaf for part in self.parts.values() for leaf in part.leaves()] if self.parts else [self]


@dataclass
class Setting:
    """The context in which strategies are drawn.

    Args:
        rng: Where to draw from.
        layout: The model.
        layers: Globs that may say what its layers are.
        head: Globs that may say what its head is.
        seeds: Seeds that no mask has yet; `None` is the run's.
    """

    rng: Random
    layout: Layout
    layers: Sequence[str]
    head: Sequence[str]
    seeds: list[int | None]

    def glob(self) -> str:
        """Draw a glob that matches a parameter."""
        name = self.rng.choice([name for parameter in self.layout.shapes for name in self.layout.names(parameter)])
        steps = name.split(".")
        cut = self.rng.randrange(len(steps))
        ending = f"*.{steps[-1]}" if len(steps) > 1 else name
        return self.rng.choice([name, ending, ".".join([*steps[:cut], "*"])])

    def matched(self, glob: str) -> set[str]:
        """Return the parameters that a glob matches."""
        return {name for name in self.layout.shapes if self.layout.matches(name, glob)}

    def every(self) -> Any:
        return self.rng.choice([1, 1, 2, 3, 7, "epoch", None])

    def components(self) -> Any:
        """Draw what a component is."""
        kind = self.rng.choice(["projection", "tensor", "module", "block", "globs"])
        if kind != "globs":
            return kind
        left, globs = set(self.layout.shapes), {}
        for _ in range(self.rng.randint(0, 3)):
            glob = self.glob()
            if left & self.matched(glob) and glob not in globs:
                globs[glob] = self.rng.choice(["a", "b", "c"])
                left -= self.matched(glob)
        return {**globs, "*": self.rng.choice(["a", "rest"])}


def _filtered(setting: Setting) -> tuple[dict[str, Any], set[str]]:
    """Draw what is included and excluded, and return what is left alone."""
    everything = set(setting.layout.shapes)
    include = [setting.glob() for _ in range(setting.rng.choice([0, 0, 1, 2]))]
    exclude = [setting.glob() for _ in range(setting.rng.choice([0, 0, 1, 2]))]
    inside = set().union(*map(setting.matched, include)) if include else everything
    inside = inside.difference(*map(setting.matched, exclude))
    if not inside:
        return {}, set()
    one = setting.rng.random() < 0.5  # a list of one, or that one
    arguments = {
        "include": (include[0] if one and len(include) == 1 else include) if include else None,
        "exclude": (exclude[0] if one and len(exclude) == 1 else exclude) if exclude else None,
    }
    return arguments, everything - inside


def grad_drop(setting: Setting) -> Drawn:
    rng = setting.rng
    granularity: Any = rng.choice(["element", "row", "tensor", "component"])
    rescale, every, seed = rng.random() < 0.4, setting.every(), setting.seeds.pop()
    rate, same = draw_schedule(rng, 0.0, 0.9 if rescale else 1.0, by_depth=True, ends=True)
    filters, leave = _filtered(setting)
    components = setting.components() if granularity == "component" and rng.random() < 0.8 else None
    transform = GradDrop(
        rate,
        resample_every=every,
        granularity=granularity,
        components=components,
        rescale=rescale,
        seed=seed,
        fused=False,
        **filters,
    )
    if granularity in {"element", "row"}:
        does = drop_entries(same, seed=seed, every=every, by_row=granularity == "row", rescale=rescale, leave=leave)
    else:
        kind = "tensor" if granularity == "tensor" else components or "projection"
        does = drop_units(same, kind, seed=seed, every=every, rescale=rescale, leave=leave)
    return Drawn(transform, does, kept_share(does, same, leave), masks=True)


# ---------------------------------------------------------------- masks that stay
def trainable_rows(setting: Setting) -> Drawn:
    rng, rows = setting.rng, dict[str, Any]()
    while not rows:
        for glob in {setting.glob() for _ in range(rng.choice([1, 1, 2, 3]))}:
            shapes = [setting.layout.shapes[name] for name in setting.matched(glob)]
            least = min(shape[0] if shape else 0 for shape in shapes)
            if least:
                rows[glob] = rng.sample(range(least), rng.randint(1, min(least, 5)))
    others: Any = rng.choice(["train", "train", "frozen"])
    does = TrainTheseRows(rows, others=others)
    return Drawn(TrainableRows(rows, others=others), does, HeldShare(does), masks=True)


def sparse_mask(setting: Setting) -> Drawn:
    """Draw one that needs no gradients, which calibrate without a loss scale alone; no weight here is zero."""
    rng, score = setting.rng, setting.rng.choice(["random", "weight"])
    arguments: dict[str, Any] = {
        "exclude_head": rng.random() < 0.5,
        "structure": rng.choice(["entry", "row"]),
        "scope": rng.choice(["global", "tensor"]),
    }
    if score == "random":
        arguments["seed"] = setting.seeds.pop()
    density = rng.choice([1e-4, rng.random(), 1.0])
    does = TrainTheLargest(density, score, **arguments)
    return Drawn(SparseMask(density, score=score, **arguments), does, HeldShare(does), masks=True)


# ---------------------------------------------------------------- layers
def _relaid(setting: Setting) -> tuple[dict[str, Any], Callable[[Reference], Reference]]:
    """Draw what the layers and the head are, and how a reference is told."""
    layers = list(setting.layers) if setting.rng.random() < 0.2 else None
    head = list(setting.head) if setting.rng.random() < 0.3 else None

    def tell(does: Reference) -> Reference:
        def step(values: Values, when: When, layout: Layout) -> Values:
            return does(values, when, layout.relaid(layers, head))

        return step

    return {"layers": layers, "head": head}, tell


def layer_grad_drop(setting: Setting) -> Drawn:
    rate, same = draw_schedule(setting.rng, 0.0, 1.0, by_depth=True, ends=True)
    every, seed = setting.every(), setting.seeds.pop()
    patterns, tell = _relaid(setting)
    transform = LayerGradDrop(rate, resample_every=every, seed=seed, **patterns)
    return Drawn(transform, tell(drop_layers(same, seed=seed, every=every)), kept_layers)


def _progress(progress: float, height: float) -> float:
    return progress


def gradual_unfreezing(setting: Setting) -> Drawn:
    patterns, tell = _relaid(setting)
    every: Any = setting.rng.choice([1, 2, 3, "epoch", None])
    if every is not None:
        transform = GradualUnfreezing(unfreeze_every=every, **patterns)

        def joined(when: When, layers: int) -> float:
            return when.epoch if every == "epoch" else when.step // int(every)

    else:
        share, same = draw_schedule(setting.rng, 0.0, 1.0)
        schedule = share if isinstance(share, Schedule) else None
        if schedule is None:  # a number is none: take the default
            same = _progress
        transform = GradualUnfreezing(schedule=schedule, **patterns)

        def joined(when: When, layers: int) -> float:
            return (same(when.progress, 1.0) if callable(same) else same) * (layers + 1)

    return Drawn(transform, tell(unfreeze(joined)), kept_layers)


def head_only(setting: Setting) -> Drawn:
    patterns, tell = _relaid(setting)
    return Drawn(HeadOnly(**patterns), tell(only_the_head), kept_layers)


# ---------------------------------------------------------------- clips
def _threshold(rng: Random) -> tuple[Any, Rate]:
    if rng.random() < 0.1:
        return inf, inf
    high = 10.0 ** rng.uniform(-4, 1)
    return draw_schedule(rng, high / 3, high)


def component_norm_clip(setting: Setting) -> Drawn:
    rng, components = setting.rng, setting.components()
    max_norm, same = _threshold(rng)
    units = [*setting.layout.units(components), *(["*.bias"] if components in ("tensor", "projection") else [])]
    overrides = {glob: _threshold(rng) for glob in rng.sample(units, min(len(units), rng.choice([0, 0, 1, 2])))}
    norm_type = rng.choice([2.0, 2.0, inf])
    transform = ComponentNormClip(
        max_norm,
        components=components,
        overrides={glob: value for glob, (value, _) in overrides.items()},
        norm_type=norm_type,
    )
    others = {glob: value for glob, (_, value) in overrides.items()}
    does = reference.clip_norms(same, components, overrides=others, norm_type=norm_type)
    return Drawn(transform, does, clipped_norms(same, components, others, norm_type))


def global_norm_clip(setting: Setting) -> Drawn:
    max_norm, same = _threshold(setting.rng)
    norm_type = setting.rng.choice([2.0, 2.0, inf])
    transform = GlobalNormClip(max_norm, norm_type=norm_type)
    return Drawn(
        transform,
        reference.clip_norms(same, "all", norm_type=norm_type),
        clipped_norms(same, "all", {}, norm_type),
    )


def value_clip(setting: Setting) -> Drawn:
    max_value, same = _threshold(setting.rng)
    return Drawn(ValueClip(max_value), clip_values(same), clipped_values(same))


# ---------------------------------------------------------------- clips that learn
def _learning(transform: GradientTransform, does: AdaptiveClip) -> Drawn:
    return Drawn(transform, does, LearntNorms(does))


def _together_or_not(setting: Setting) -> Any:
    return "global" if setting.rng.random() < 0.3 else setting.components()


def auto_clip(setting: Setting) -> Drawn:
    rng, kind = setting.rng, _together_or_not(setting)
    percentile, history = rng.choice([0.0, 100.0, rng.uniform(0, 100), rng.uniform(0, 100)]), rng.randint(1, 9)
    transform = AutoClip(percentile, components=kind, history=history)
    return _learning(transform, ClipToPercentile(percentile, kind, history=history))


def zclip(setting: Setting) -> Drawn:
    rng, kind = setting.rng, _together_or_not(setting)
    limit, (max_norm, same) = 10.0 ** rng.uniform(-2, 0.5), _threshold(rng)
    mode: Any = rng.choice(["reciprocal", "percentile", "mean"])
    others: dict[str, Any] = {"mode": mode, "alpha": rng.uniform(0.05, 0.99), "warmup_steps": rng.randint(1, 6)}
    transform = ZClip(limit, components=kind, max_norm=max_norm, **others)
    return _learning(transform, ClipOutliers(limit, kind, max_norm=same, **others))


def ada_gc(setting: Setting) -> Drawn:
    rng, kind = setting.rng, _together_or_not(setting)
    ratio, (max_norm, same) = rng.uniform(1.0, 1.5), _threshold(rng)
    others: dict[str, Any] = {"beta": rng.uniform(0.05, 0.99), "warmup_steps": rng.randint(1, 6)}
    transform = AdaGC(ratio, components=kind, max_norm=max_norm, **others)
    return _learning(transform, ClipToOwnPast(ratio, kind, max_norm=same, **others))


def spike_skip(setting: Setting) -> Drawn:
    rng, history = setting.rng, setting.rng.randint(2, 8)
    deviations, warmup = 10.0 ** rng.uniform(-1.5, 0.7), rng.randint(2, history)
    arguments: dict[str, Any] = {"history": history, "warmup_steps": warmup, "max_in_a_row": 1000}  # no training ends
    does = LeaveOutSpikes(deviations, **arguments)
    return Drawn(SpikeSkip(deviations, **arguments), does, Spikes(does))


def identity(setting: Setting) -> Drawn:
    return Drawn(Identity())
