"""The golden rows of SpikeSkip."""

from collections.abc import Collection
from math import inf, isfinite, sqrt

import torch

from lightning_sparsegrad import Chain, GlobalNormClip, SpikeSkip
from tests.layout import Layout
from tests.reference import Entries, InOrder, Learner, Values, When, clip_norms, norm
from tests.transforms.golden._adaptive import teaches
from tests.transforms.golden._row import Fit, Golden


class LeaveOutSpikes(Learner):
    """SpikeSkip."""

    def __init__(
        self, deviations: float = 6.0, *, history: int = 128, warmup_steps: int = 64, max_in_a_row: int = 5
    ) -> None:
        self.deviations, self.history = deviations, history
        self.warmup_steps, self.max_in_a_row = warmup_steps, max_in_a_row
        self.norms: list[float] = []
        self.learnt = self.spikes = self.in_a_row = 0
        self.measured: dict[str, float] = {}  # the norm of the last window and its threshold, by statistic
        self._seen: float | None = None

    def threshold(self) -> float:
        """Return the norm beyond which a window is a spike."""
        if self.learnt < self.warmup_steps:
            return inf
        mean = sum(self.norms) / len(self.norms)
        deviation = sqrt(sum((each - mean) ** 2 for each in self.norms) / (len(self.norms) - 1))
        return mean + self.deviations * max(deviation, 0.01 * mean)

    def __call__(self, values: Values, when: When, layout: Layout) -> Values:
        present = [entries.values for entries in values.values() if entries is not None]
        length = norm([value for entries in present for value in entries], 2.0)
        self._seen, bound = None, self.threshold()
        self.measured = {"norm_before/all": length, "threshold/all": bound} if present else {}
        if not present or not all(isfinite(value) for entries in present for value in entries):
            return values
        if length > bound:
            self.spikes += 1
            self.in_a_row += 1
            if self.in_a_row > self.max_in_a_row:
                raise FloatingPointError(length)
            if not when.scaled:
                return dict.fromkeys(values)
            return {  # for a gradient scaler to see
                name: entries and Entries(entries.shape, [inf] * len(entries.values))
                for name, entries in values.items()
            }
        self.in_a_row, self._seen = 0, length
        return values

    def stepped(self, left: Collection[str] | None = None) -> None:
        if self._seen is not None and (left is None or left) and teaches(self._seen):
            self.norms = [*self.norms, self._seen][-self.history :]
            self.learnt += 1
        self._seen = None


def _waits_for_norms(fit: Fit) -> None:
    for step, statistics in enumerate(fit.statistics):
        gradients = [gradient.flatten().double() for gradient in fit.present(step).values()]
        norm_seen = float(statistics["norm_before/all"])
        assert abs(norm_seen - float(torch.cat(gradients).norm())) < 1e-4 * norm_seen
        assert (float(statistics["spikes"]), float(statistics["threshold/all"])) == (0, inf)
        assert fit.trained(step) == set(fit.weights[0])


ROWS = (
    Golden(
        SpikeSkip(0.01, history=4, warmup_steps=2),
        (-247.03125, 84.0625, 0.0),
        (0, 0, 23),
        does=LeaveOutSpikes(0.01, history=4, warmup_steps=2),
        overlay="spike_skip",
        effect=_waits_for_norms,
    ),
    Golden(
        Chain({"skip": SpikeSkip(0.02, history=2, warmup_steps=2), "clip": GlobalNormClip(19.5)}),
        (-246.346389, 84.0625, 0.0),
        (0, 0, 23),
        does=InOrder(LeaveOutSpikes(0.02, history=2, warmup_steps=2), clip_norms(19.5, "all")),
    ),
)
