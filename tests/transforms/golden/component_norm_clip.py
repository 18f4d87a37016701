"""The golden rows of ComponentNormClip."""

from math import inf

from lightning_sparsegrad import ComponentNormClip
from tests.reference import clip_norms
from tests.transforms.golden._row import Fit, Golden


def clips_each_tensor(fit: Fit, max_norm: float = 0.01) -> None:
    for step in range(len(fit.gradients)):
        assert max(float(gradient.norm()) for gradient in fit.present(step).values()) <= max_norm * (1 + 1e-5)
    assert any(float(statistics["clipped"]) > 0 for statistics in fit.statistics)


ROWS = (
    Golden(
        ComponentNormClip(0.5),
        (-31.4195645, 10.7838749, -62.6488448),
        does=clip_norms(0.5, "projection"),
        overlay="component_norm_clip",
        effect=clips_each_tensor,
    ),
    Golden(
        ComponentNormClip(1.0, components="tensor", norm_type=inf),
        (-135.539796, 46.7540873, -241.124191),
        does=clip_norms(1.0, "tensor", norm_type=inf),
        overlay="cgnc",
        effect=clips_each_tensor,
    ),
    Golden(
        ComponentNormClip(2.0, components="block", overrides={"head": 0.25, "embeddings": inf}),
        (-43.8532393, 21.8229255, -96.8965109),
        does=clip_norms(2.0, "block", overrides={"head": 0.25, "embeddings": inf}),
    ),
    Golden(
        ComponentNormClip(1.5, components="module"),
        (-59.451861, 25.1168678, -116.477858),
        does=clip_norms(1.5, "module"),
    ),
)
