"""The golden row of BiasOnly."""

from lightning_sparsegrad import BiasOnly
from tests.layout import Layout
from tests.reference import Values, When
from tests.transforms.golden._row import Fit, Golden


def bias_only(values: Values, when: When, layout: Layout) -> Values:
    """Drop the parameters below the head whose names contain neither bias nor norm."""
    small = {name for name in values if any("norm" in role or role.endswith("bias") for role in layout.names(name))}
    head = {name for name in values if layout.head in layout.depths[name]}
    return {name: entries if name in small | head else None for name, entries in values.items()}


def _trains_biases_and_the_head(fit: Fit) -> None:
    for name, weight in fit.weights[0].items():
        moved = any((weight != later[name]).any() for later in fit.weights[1:])
        small = name.endswith("bias") or "LayerNorm" in name or "classifier" in name or "pooler" in name
        assert moved == small, name


ROWS = (
    Golden(
        BiasOnly(),
        (-37.84375, 30.96875, -172.0625),
        (8, 8, 8),
        does=bias_only,
        overlay="bias_only",
        effect=_trains_biases_and_the_head,
    ),
)
