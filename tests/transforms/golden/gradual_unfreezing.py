"""The golden rows of GradualUnfreezing."""

from collections.abc import Callable
from itertools import pairwise

from lightning_sparsegrad import GradualUnfreezing
from tests.layout import Layout
from tests.reference import Reference, Values, When, training_depths, without
from tests.transforms.golden._row import Fit, Golden


def unfreeze(joined: Callable[[When, int], float]) -> Reference:
    """Return GradualUnfreezing; a function of when and of the layers that join returns how many have."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        *below, top = training_depths(layout)
        turned = int(min(joined(when, len(below)), len(below)))
        trains = [top, *reversed(below)][: turned + 1]
        return without(values, layout, set(range(top)) - set(trains))

    return step


def _layers_join(fit: Fit) -> None:
    trained = [fit.trained(step) for step in range(len(fit.gradients))]
    assert all("model.classifier.weight" in names for names in trained)
    assert not any("encoder" in name for name in trained[0])
    assert all(before <= after for before, after in pairwise(trained))
    assert trained[-1] == set(fit.weights[0])


ROWS = (
    Golden(
        GradualUnfreezing(),
        (-16.625, 104.125, -465.34375),
        (20, 10, 0),
        does=unfreeze(lambda when, layers: when.progress * (layers + 1)),
        overlay="gradual_unfreezing",
        effect=_layers_join,
    ),
    Golden(
        GradualUnfreezing(unfreeze_every="epoch"),
        (-16.625, 104.125, -426.3125),
        (20, 10, 2),
        does=unfreeze(lambda when, _: when.epoch),
    ),
)
