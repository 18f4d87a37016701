"""The golden rows of Chain."""

from lightning_sparsegrad import Chain, ComponentNormClip, GlobalNormClip, GradDrop, LayerGradDrop, ValueClip
from tests.reference import InOrder, clip_norms
from tests.transforms.golden._row import Fit, Golden
from tests.transforms.golden.component_norm_clip import clips_each_tensor
from tests.transforms.golden.global_norm_clip import clips_all_together
from tests.transforms.golden.grad_drop import drop_entries, keeps_80_percent
from tests.transforms.golden.layer_grad_drop import drop_layers
from tests.transforms.golden.value_clip import clip_values


def _drops_layers_then_clips(fit: Fit) -> None:
    assert any(len(fit.trained(step)) < len(fit.weights[0]) for step in range(len(fit.gradients)))
    clips_all_together(fit)


def _masks_then_clips(fit: Fit) -> None:
    keeps_80_percent(fit)
    clips_each_tensor(fit, max_norm=0.05)


ROWS = (
    Golden(
        Chain({"mask": GradDrop(0.5), "clip": ComponentNormClip(0.5)}),
        (-78.2000154, 32.7657042, 34.8473251),
        does=InOrder(drop_entries(0.5), clip_norms(0.5, "projection")),
        overlay="graddrop_cgnc",
        effect=_masks_then_clips,
    ),
    Golden(
        Chain([GlobalNormClip(3.0), Chain({"layers": LayerGradDrop(0.5), "entries": GradDrop(0.5)}), ValueClip(0.1)]),
        (-2.18427681, 13.7316524, 18.0798821),
        (10, 10, 10),
        does=InOrder(clip_norms(3.0, "all"), drop_layers(0.5), drop_entries(0.5), clip_values(0.1)),
        overlay="chain",
        effect=_drops_layers_then_clips,
    ),
)
