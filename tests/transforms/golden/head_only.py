"""The golden row of HeadOnly."""

import torch

from lightning_sparsegrad import HeadOnly
from tests.layout import Layout
from tests.reference import Values, When, training_depths, without
from tests.transforms.golden._row import Fit, Golden


def head_only(values: Values, when: When, layout: Layout) -> Values:
    """Drop every layer but the head, or the one in its role."""
    return without(values, layout, set(range(training_depths(layout)[-1])))


def _trains_the_head(fit: Fit) -> None:
    for name, weight in fit.weights[-1].items():
        moved = not torch.equal(weight, fit.weights[0][name])
        assert moved == ("classifier" in name or "pooler" in name)


ROWS = (
    Golden(
        HeadOnly(),
        (-16.625, 68.53125, -96.21875),
        (20, 20, 20),
        does=head_only,
        overlay="head_only",
        effect=_trains_the_head,
    ),
)
