"""The strategies to benchmark."""

from pathlib import Path

import yaml

from benchmarks.models import Thresholds
from lightning_sparsegrad import (
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
    TrainableRows,
    ValueClip,
)

OVERLAYS = Path(__file__).parents[1] / "configs" / "gradient"
RATE = 0.5

FUSED = "GradDrop, fused"
EAGER = "GradDrop, eager"
ROWS = "GradDrop, rows"
TENSORS = "GradDrop, tensors"
LAYERS = "LayerGradDrop"
UNFREEZING = "GradualUnfreezing"
HEAD = "HeadOnly"
CLIP_ALL = "ComponentNormClip, all clipped"
CLIP_FEW = "ComponentNormClip, few clipped"
CLIP_TENTH = "ComponentNormClip, tenth of tensors"
GLOBAL = "GlobalNormClip"
VALUE = "ValueClip"
ONE_PERCENT = "SparseMask, 1% of entries"
THIRTY_PERCENT = "SparseMask, 30% of entries"
NEW_ROWS = "TrainableRows, 50 embeddings"
CHAIN = "Chain of GradDrop and ComponentNormClip"


def make_strategies(thresholds: Thresholds, *, fused: bool) -> dict[str, GradientTransform]:
    """Return every strategy by name; those not listed here come from their overlays.

    Args:
        thresholds: Norms to clip to.
        fused: Whether to include the compiled mask, which takes long to compile, and use it in the chain.
    """
    masks: dict[str, GradientTransform] = {FUSED: GradDrop(rate=RATE, fused=True)} if fused else {}
    listed = masks | {
        EAGER: GradDrop(rate=RATE, fused=False),
        ROWS: GradDrop(rate=RATE, granularity="row"),
        TENSORS: GradDrop(rate=RATE, granularity="tensor"),
        LAYERS: LayerGradDrop(rate=RATE),
        UNFREEZING: GradualUnfreezing(),
        HEAD: HeadOnly(),
        CLIP_ALL: ComponentNormClip(max_norm=thresholds.all),
        CLIP_FEW: ComponentNormClip(max_norm=thresholds.few),
        CLIP_TENTH: ComponentNormClip(max_norm=thresholds.tenth),
        GLOBAL: GlobalNormClip(max_norm=thresholds.tenth),
        VALUE: ValueClip(max_value=thresholds.value),
        ONE_PERCENT: SparseMask(0.01, score="random"),  # as fast as the others, and calibrates in no step
        THIRTY_PERCENT: SparseMask(0.3, score="random"),
        NEW_ROWS: TrainableRows({"*word_embeddings.weight": [*range(50)]}),
        CHAIN: Chain([GradDrop(rate=RATE, fused=fused), ComponentNormClip(max_norm=thresholds.all)]),
    }
    return listed | from_overlays({type(transform).__name__ for transform in (*listed.values(), Identity())})


def from_overlays(listed: set[str]) -> dict[str, GradientTransform]:
    """Return the strategies of all overlays, except those of the listed classes."""
    from jsonargparse import ArgumentParser  # which a machine with a GPU may lack

    parser = ArgumentParser()
    parser.add_subclass_arguments(GradientTransform, "gradient_transform")
    others: dict[str, GradientTransform] = {}
    for overlay in sorted(OVERLAYS.glob("*.yaml")):
        arguments = yaml.safe_load(overlay.read_text())["model"]["init_args"]
        kind = arguments["gradient_transform"]["class_path"]
        if kind not in listed:
            made = parser.instantiate_classes(parser.parse_object(arguments))
            others[f"{kind}, as in {overlay.name}"] = made.gradient_transform
    return others
