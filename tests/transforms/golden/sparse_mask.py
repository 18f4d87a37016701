"""The golden rows of SparseMask."""

from collections.abc import Sequence
from math import inf, isfinite, isnan, prod
from struct import pack, unpack

from lightning_sparsegrad import Chain, GlobalNormClip, SparseMask
from lightning_sparsegrad.functional import derive_key, hash_index
from tests.layout import Layout
from tests.reference import Holder, InOrder, Values, When, clip_norms, hold
from tests.transforms.golden._row import Fit, Golden


class TrainTheLargest(Holder):
    """SparseMask, of which one entry after the other is scored, all scores are sorted, and the first ones train.

    Args:
        density: Share of the entries, or of the rows, that train.
        score: By what they are chosen.
        structure: What is chosen: `"entry"` or `"row"`.
        scope: Of what the density is the share: of the model, `"global"`, or of each `"tensor"`.
        exclude_head: Whether the head trains whole.
        exclude: Globs of other tensors that train whole.
        windows: How many windows calibrate.
        seed: Seed of random scores; by default that of the run.
    """

    def __init__(
        self,
        density: float | None,
        score: str,
        *,
        structure: str = "entry",
        scope: str = "global",
        exclude_head: bool = True,
        exclude: Sequence[str] = (),
        windows: int = 1,
        seed: int | None = None,
    ) -> None:
        self.density, self.score, self.structure, self.scope = density, score, structure, scope
        self.exclude_head, self.exclude, self.windows, self.seed = exclude_head, exclude, windows, seed
        self.scores: dict[str, list[float]] = {}
        self.trains: dict[str, set[int]] | None = None  # positions in each masked tensor

    def __call__(self, values: Values, when: When, layout: Layout) -> Values:
        if self.trains is None and self.score in {"fisher", "gradient", "movement"}:
            assert when.step < self.windows
            self._learn(values, layout)
            if when.step == self.windows - 1:
                self.trains = self._chosen(layout, when)
            return dict.fromkeys(values)
        if self.trains is None:
            self.scores = {name: self._of_weights(name, layout, when) for name in self.masked(layout)}
            self.trains = self._chosen(layout, when)
        return hold(values, self.frozen(layout))

    def masked(self, layout: Layout) -> list[str]:
        """Return the tensors of which a share trains."""
        return [
            name
            for name, shape in layout.shapes.items()
            if name not in layout.frozen
            and not any(layout.matches(name, glob) for glob in self.exclude)
            and not (self.exclude_head and layout.depths[name] == {layout.head})
            and 0 not in shape
            and not (self.score == "nonzero" and len(shape) < 2)
        ]

    def frozen(self, layout: Layout) -> dict[str, set[int]]:
        trains = self.trains or {}
        return {name: set(range(prod(layout.shapes[name]))) - chosen for name, chosen in trains.items()}

    # ------------------------------------------------------------ scores
    def _learn(self, values: Values, layout: Layout) -> None:
        if not all(isfinite(value) for entries in values.values() if entries for value in entries.values):
            return
        for name in self.masked(layout):
            entries = values[name]
            scores = self.scores.setdefault(name, [0.0] * prod(layout.shapes[name]))
            for index, gradient in enumerate(entries.values if entries else ()):
                term = {
                    "fisher": gradient * gradient,
                    "gradient": abs(gradient),
                    "movement": gradient,
                }[self.score]
                scores[index] = single(scores[index] + single(term))

    def _of_weights(self, name: str, layout: Layout, when: When) -> list[float]:
        weights = layout.weights[name]
        if self.score == "weight":
            return [single(abs(weight)) for weight in weights]
        if self.score == "nonzero":
            return [float(weight != 0) for weight in weights]
        key = derive_key("SparseMask", when.seed if self.seed is None else self.seed, name)
        width = self._width(layout.shapes[name])
        return [float(hash_index(key, index // width)) for index in range(len(weights))]

    # ------------------------------------------------------------ the choice
    def _width(self, shape: Sequence[int]) -> int:
        """Return how many entries a unit has."""
        return max(prod(shape[1:]), 1) if self.structure == "row" else 1

    def _chosen(self, layout: Layout, when: When) -> dict[str, set[int]]:
        names = self.masked(layout)
        groups = [names] if self.scope == "global" else [[name] for name in names]
        chosen: dict[str, set[int]] = {name: set() for name in names}
        for group in groups:
            units = [unit for name in group for unit in self._units(name, layout)]
            if self.density is None:
                count = sum(score > 0 for score, _, _ in units)
            else:
                count = max(1, round(self.density * len(units)))
            units.sort(key=lambda unit: inf if isnan(unit[0]) else -unit[0])  # stable: of equal ones, the first
            for _, name, positions in units[:count]:
                chosen[name] |= set(positions)
        return chosen

    def _units(self, name: str, layout: Layout) -> list[tuple[float, str, range]]:
        scores, width = self.scores[name], self._width(layout.shapes[name])
        if self.score == "movement":  # the weights do not move while nothing steps
            scores = [
                single(-single(weight) * score) for weight, score in zip(layout.weights[name], scores, strict=True)
            ]
        starts = range(0, len(scores), width)
        return [(sum(scores[i : i + width]) / width, name, range(i, i + width)) for i in starts]


def single(value: float) -> float:
    """Return the nearest number in float32."""
    try:
        rounded: float = unpack("f", pack("f", value))[0]
    except OverflowError:
        return inf if value > 0 else -inf
    return rounded


def _trains_one_percent_once_calibrated(fit: Fit, *, windows: int = 4, density: float = 0.01) -> None:
    assert [fit.trained(step) == set() for step in range(windows + 1)] == [True] * windows + [False]
    below = [name for name in fit.weights[0] if "classifier" not in name and "pooler" not in name]
    moved = {name: int((fit.weights[-1][name] != weight).sum()) for name, weight in fit.weights[0].items()}
    total = sum(fit.weights[0][name].numel() for name in below)
    count = round(density * total)
    assert 0.5 * count < sum(moved[name] for name in below) <= count
    assert all(moved[name] > 0.5 * weight.numel() for name, weight in fit.weights[0].items() if name not in below)
    assert round(float(fit.statistics[-1]["kept"]) * total) == count


ROWS = (
    Golden(
        SparseMask(0.1, calibration_windows=1),
        (0.0, -519.03125, 315.5),
        (23, 7, 7),
        does=TrainTheLargest(0.1, "fisher"),
        overlay="sparse_mask",
        effect=_trains_one_percent_once_calibrated,
    ),
    Golden(
        SparseMask(0.3, score="random", structure="row", scope="tensor", exclude_head=False),
        (-237.9375, 5.6875, -456.5625),
        does=TrainTheLargest(0.3, "random", structure="row", scope="tensor", exclude_head=False),
    ),
    Golden(
        Chain([SparseMask(0.25, score="weight", exclude=["blocks.1.*"]), GlobalNormClip(3.0)]),
        (-53.5486192, -135.121154, 63.2436718),
        (1, 1, 1),
        does=InOrder(TrainTheLargest(0.25, "weight", exclude=["blocks.1.*"]), clip_norms(3.0, "all")),
    ),
)
