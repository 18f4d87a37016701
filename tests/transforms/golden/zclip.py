"""The golden rows of ZClip."""

from collections.abc import Mapping
from math import inf, nan, sqrt

from lightning_sparsegrad import ZClip
from tests.reference import Rate, threshold_at
from tests.transforms.golden._adaptive import AdaptiveClip, Memory
from tests.transforms.golden._row import Fit, Golden


class ClipOutliers(AdaptiveClip):
    """ZClip."""

    def __init__(
        self,
        limit: float = 2.5,
        kind: str | Mapping[str, str] = "global",
        *,
        mode: str = "reciprocal",
        alpha: float = 0.97,
        warmup_steps: int = 25,
        max_norm: Rate = 1.0,
    ) -> None:
        super().__init__(kind)
        self.limit, self.mode, self.alpha = limit, mode, alpha
        self.warmup_steps, self.max_norm = warmup_steps, max_norm

    def spike(self, memory: Memory, length: float) -> float | None:
        """Return the norm that a spike is clipped to, before `max_norm` bounds it; `None` if it is no spike."""
        if memory.number < self.warmup_steps:
            return None
        mean, deviation = memory.level, max(sqrt(memory.variance), 0.01 * memory.level)
        score = (length - mean) / deviation
        if not score > self.limit:
            return None
        if self.mode == "mean":
            return mean
        return mean + self.limit * deviation * (self.limit / score if self.mode == "reciprocal" else 1.0)

    def threshold(self, memory: Memory, length: float, everything: float) -> float:
        spike = self.spike(memory, length)
        return min(inf if spike is None else spike, threshold_at(self.max_norm, self.when))

    def learn(self, memory: Memory, length: float, everything: float) -> None:
        if memory.number < self.warmup_steps:
            memory.norms.append(length)
            memory.number = len(memory.norms)
            memory.level = sum(memory.norms) / memory.number
            memory.variance = sum((each - memory.level) ** 2 for each in memory.norms) / memory.number
            return
        spike = self.spike(memory, length)
        learnt = length if spike is None else spike
        memory.level = self.alpha * memory.level + (1 - self.alpha) * learnt
        memory.variance = self.alpha * memory.variance + (1 - self.alpha) * (learnt - memory.level) ** 2

    def typical(self, memory: Memory) -> float:
        return memory.level if memory.number else nan


def _clips_at_one_in_the_warmup(fit: Fit) -> None:
    for statistics in fit.statistics:
        before, after = (float(statistics[f"norm_{when}/all"]) for when in ("before", "after"))
        assert abs(after - min(before, 1.0)) < 1e-4
        assert float(statistics["threshold/all"]) == 1
    assert any(float(statistics["clipped"]) > 0 for statistics in fit.statistics)


ROWS = (
    Golden(
        ZClip(0.25, alpha=0.1, warmup_steps=1, max_norm=19.5),
        (-246.346396, 84.0625, -462.624202),
        does=ClipOutliers(0.25, alpha=0.1, warmup_steps=1, max_norm=19.5),
        overlay="zclip",
        effect=_clips_at_one_in_the_warmup,
    ),
    Golden(
        ZClip(0.25, mode="percentile", alpha=0.8, warmup_steps=1, max_norm=inf, components="projection"),
        (-247.03125, 52.774393, -410.865491),
        does=ClipOutliers(0.25, "projection", mode="percentile", alpha=0.8, warmup_steps=1, max_norm=inf),
    ),
    Golden(
        ZClip(0.1, mode="mean", alpha=0.5, warmup_steps=1, max_norm=12.0, components="block"),
        (-241.503402, 82.2036303, -457.706153),
        does=ClipOutliers(0.1, "block", mode="mean", alpha=0.5, warmup_steps=1, max_norm=12.0),
    ),
)
