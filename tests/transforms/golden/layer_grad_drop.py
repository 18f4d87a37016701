"""The golden rows of LayerGradDrop."""

from lightning_sparsegrad import LayerGradDrop, Linear
from tests.layout import Layout
from tests.reference import Rate, Reference, Values, When, draw, training_depths, without
from tests.transforms.golden._row import Fit, Golden
from tests.transforms.golden.grad_drop import falling


def drop_layers(rate: Rate, *, seed: int | None = None, every: int | str | None = 1) -> Reference:
    """Return LayerGradDrop."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        names = layout.layers
        rates = {
            name: rate(when.progress, depth / layout.head) if callable(rate) else rate
            for depth, name in enumerate(names)
        }
        trained = [name for depth, name in enumerate([*names, "head"]) if depth in training_depths(layout)]
        if all(rates.get(name) == 1 for name in trained):  # nothing would train: the topmost layer is kept
            rates[trained[-1]] = 0.0
        key = "LayerGradDrop", when.seed if seed is None else seed, when.index(every)
        dropped = draw(rates, key, lambda units: any(name not in units for name in trained))
        return without(values, layout, {names.index(name) for name in dropped})

    return step


def _drops_whole_layers(fit: Fit) -> None:
    trained = [fit.trained(step) for step in range(len(fit.gradients))]
    assert len(set(map(frozenset, trained))) > 1
    assert all("model.classifier.weight" in names for names in trained)
    for layer in range(6):
        inside = {name for name in fit.weights[0] if f"encoder.layer.{layer}." in name}
        assert all(inside <= names or not inside & names for names in trained)


ROWS = (
    Golden(
        LayerGradDrop(0.5),
        (-113.75, 104.125, -260.875),
        (10, 10, 10),
        does=drop_layers(0.5),
        overlay="layer_grad_drop",
        effect=_drops_whole_layers,
    ),
    Golden(
        LayerGradDrop(Linear(0.8, 0.2), resample_every=None, seed=5),
        (-16.625, 68.53125, -465.34375),
        (20, 20, 0),
        does=drop_layers(falling, every=None, seed=5),
    ),
)
