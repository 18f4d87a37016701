"""The golden row of Identity."""

from lightning_sparsegrad import Identity
from tests.reference import keep_all
from tests.transforms.golden._row import Fit, Golden


def _trains_everything(fit: Fit) -> None:
    assert all(not statistics for statistics in fit.statistics)
    assert fit.trained(0) == set(fit.weights[0])


ROWS = (
    Golden(
        Identity(),
        (-247.03125, 84.0625, -465.34375),
        does=keep_all,
        overlay="identity",
        effect=_trains_everything,
    ),
)
