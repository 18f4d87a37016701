"""The golden row of GlobalNormClip."""

import torch

from lightning_sparsegrad import GlobalNormClip
from tests.reference import clip_norms
from tests.transforms.golden._row import Fit, Golden


def clips_all_together(fit: Fit) -> None:
    for step in range(len(fit.gradients)):
        norms = [gradient.norm() for gradient in fit.present(step).values()]
        assert float(torch.stack(norms).norm()) <= 1.0 + 1e-5
    assert any(float(statistics["clipped"]) > 0 for statistics in fit.statistics)


ROWS = (
    Golden(
        GlobalNormClip(3.0),
        (-37.8994446, 13.0982815, -71.9057779),
        does=clip_norms(3.0, "all"),
        overlay="global_norm_clip",
        effect=clips_all_together,
    ),
)
