"""The golden rows of TrainableRows."""

from collections.abc import Collection, Mapping
from math import prod

import torch

from lightning_sparsegrad import Chain, GlobalNormClip, TrainableRows
from tests.layout import Layout
from tests.reference import Holder, InOrder, Values, When, clip_norms, hold
from tests.transforms.golden._row import Fit, Golden


class TrainTheseRows(Holder):
    """TrainableRows."""

    def __init__(self, rows: Mapping[str, Collection[int]], *, others: str = "train") -> None:
        self.rows, self.others = rows, others

    def frozen(self, layout: Layout) -> dict[str, set[int]]:
        frozen: dict[str, set[int]] = {}
        for name, shape in layout.shapes.items():
            listed = [set(rows) for glob, rows in self.rows.items() if layout.matches(name, glob)]
            if listed or self.others == "frozen":
                trains, width = set[int]().union(*listed), prod(shape[1:])
                frozen[name] = {index for index in range(prod(shape)) if index // width not in trains}
        return frozen

    def __call__(self, values: Values, when: When, layout: Layout) -> Values:
        return hold(values, self.frozen(layout))


def _trains_four_rows(fit: Fit) -> None:
    first, last = fit.weights[0], fit.weights[-1]
    (name,) = (each for each in first if each.endswith("word_embeddings.weight"))
    assert not torch.equal(last[name][:4], first[name][:4])
    assert torch.equal(last[name][4:], first[name][4:])


ROWS = (
    Golden(
        TrainableRows({"*embeddings.weight": [0, 3, 3, 6]}),
        (-230.25, 87.8125, -410.65625),
        does=TrainTheseRows({"*embeddings.weight": [0, 3, 6]}),
        overlay="trainable_rows",
        effect=_trains_four_rows,
    ),
    Golden(
        Chain(
            {
                "clip": GlobalNormClip(3.0),
                "rows": TrainableRows(
                    {"head.weight": [6, 1], "blocks.*.output.weight": [0], "blocks.1.*.weight": [3]}, others="frozen"
                ),
            }
        ),
        (-0.484231858, 3.16014234, 0.473222176),
        (18, 18, 18),
        does=InOrder(
            clip_norms(3.0, "all"),
            TrainTheseRows(
                {"head.weight": [1, 6], "blocks.*.output.weight": [0], "blocks.1.*.weight": [3]}, others="frozen"
            ),
        ),
    ),
)
