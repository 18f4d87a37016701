"""The golden rows of AdaptiveGradientClip."""

import torch

from lightning_sparsegrad import AdaptiveGradientClip, Linear
from tests.layout import Layout
from tests.reference import Entries, Rate, Reference, Values, When, norm, threshold_at
from tests.transforms.golden._row import Fit, Golden


def clip_units(clipping: Rate, *, eps: float = 1e-3, exclude_head: bool = True) -> Reference:
    """Return AdaptiveGradientClip on a model without `Conv1D`: a unit is a row, or a vector."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        share = threshold_at(clipping, when)
        changed: Values = {}
        for name, entries in values.items():
            if entries is None or (exclude_head and layout.head in layout.depths[name]):
                changed[name] = entries
                continue
            is_one = sum(size > 1 for size in entries.shape) <= 1
            width = len(entries.values) if is_one else len(entries.values) // entries.shape[0]
            clipped: list[float] = []
            for start in range(0, len(entries.values), width or 1):
                row = slice(start, start + width)
                clipped += _clipped(entries.values[row], share * max(norm(layout.weights[name][row], 2.0), eps))
            changed[name] = Entries(entries.shape, clipped)
        return changed

    return step


def _clipped(unit: list[float], bound: float) -> list[float]:
    length = norm(unit, 2.0)
    if length < bound:
        return unit
    return [entry * (bound / max(length, 1e-6)) for entry in unit]


def _clips_each_unit(fit: Fit, clipping: float = 0.01, eps: float = 1e-3) -> None:
    for step in range(len(fit.gradients)):
        for name, gradient in fit.present(step).items():
            if "encoder." in name or "embeddings." in name:
                weight = fit.weights[step][name]
                units = [tensor.flatten(1) if tensor.ndim > 1 else tensor.view(1, -1) for tensor in (gradient, weight)]
                norms, bounds = (torch.linalg.vector_norm(each, dim=1) for each in units)
                assert (norms <= clipping * bounds.clamp(min=eps) * (1 + 1e-5)).all(), name
    assert any(float(statistics["clipped"]) > 0 for statistics in fit.statistics)


ROWS = (
    Golden(
        AdaptiveGradientClip(),
        (-16.9130078, 68.4264679, -96.5002724),
        does=clip_units(0.01),
        overlay="adaptive_gradient_clip",
        effect=_clips_each_unit,
    ),
    Golden(
        AdaptiveGradientClip(Linear(6.0, 9.0), eps=0.5, exclude_head=False),
        (-240.025721, 85.0691861, -465.34375),
        does=clip_units(lambda progress, height: 6.0 + 3.0 * progress, eps=0.5, exclude_head=False),
    ),
)
