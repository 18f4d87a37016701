"""The golden row of ValueClip."""

from math import inf, isfinite, nan

from lightning_sparsegrad import ValueClip
from tests.layout import Layout
from tests.reference import Entries, Rate, Reference, Values, When, threshold_at
from tests.transforms.golden._row import Fit, Golden


def clip_values(max_value: Rate) -> Reference:
    """Return ValueClip."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        bound = threshold_at(max_value, when)
        if bound == inf:
            return values
        return {
            name: entries
            and Entries(entries.shape, [min(max(v, -bound), bound) if isfinite(v) else nan for v in entries.values])
            for name, entries in values.items()
        }

    return step


def _bounds_every_entry(fit: Fit) -> None:
    for step in range(len(fit.gradients)):
        assert max(float(gradient.abs().max()) for gradient in fit.present(step).values()) <= 0.001 + 1e-9
    assert all(0 < float(statistics["clipped"]) < 1 for statistics in fit.statistics)


ROWS = (
    Golden(
        ValueClip(0.75),
        (-76.5625, 45.34375, -167.96875),
        does=clip_values(0.75),
        overlay="value_clip",
        effect=_bounds_every_entry,
    ),
)
