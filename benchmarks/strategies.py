"""The strategies under test."""

from benchmarks.models import Thresholds
from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    GlobalNormClip,
    GradDrop,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    LayerGradDrop,
    ValueClip,
)

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
CHAIN = "Chain of GradDrop and ComponentNormClip"


def make_strategies(thresholds: Thresholds, *, fused: bool) -> dict[str, GradientTransform]:
    """Return every strategy by name.

    Args:
        thresholds: Norms to clip to.
        fused: Include the compiled mask, which takes long to compile, and use it in the chain.
    """
    masks: dict[str, GradientTransform] = {FUSED: GradDrop(rate=RATE, fused=True)} if fused else {}
    return masks | {
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
        CHAIN: Chain([GradDrop(rate=RATE, fused=fused), ComponentNormClip(max_norm=thresholds.all)]),
    }
