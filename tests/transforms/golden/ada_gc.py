"""The golden rows of AdaGC."""

from collections.abc import Mapping
from math import inf

from lightning_sparsegrad import AdaGC
from tests.reference import Rate, threshold_at
from tests.transforms.golden._adaptive import AdaptiveClip, Memory
from tests.transforms.golden._row import Fit, Golden


class ClipToOwnPast(AdaptiveClip):
    """AdaGC; the level of a memory is its gamma."""

    def __init__(
        self,
        ratio: float = 1.04,
        kind: str | Mapping[str, str] = "tensor",
        *,
        beta: float = 0.99,
        warmup_steps: int = 100,
        max_norm: Rate = 1.0,
    ) -> None:
        super().__init__(kind)
        self.ratio, self.beta, self.warmup_steps, self.max_norm = ratio, beta, warmup_steps, max_norm

    def threshold(self, memory: Memory, length: float, everything: float) -> float:
        if memory.number < self.warmup_steps:
            bound = threshold_at(self.max_norm, self.when)
            is_left = bound == inf or length < 1e-19 or everything <= bound  # float32 has no square of it
            return inf if is_left else length * bound / everything
        return self.ratio * memory.level

    def learn(self, memory: Memory, length: float, everything: float) -> None:
        left = min(length, self.threshold(memory, length, everything))
        if memory.number < self.warmup_steps:
            memory.level = min(memory.level, left) if memory.number else left
        else:
            memory.level = self.beta * memory.level + (1 - self.beta) * left
        memory.number += 1

    def as_fresh(self, length: float, everything: float) -> float:
        threshold = self.threshold(Memory(), length, everything)
        return length if length <= threshold else threshold

    def typical(self, memory: Memory) -> float:
        return memory.level


def _clips_all_together_in_the_warmup(fit: Fit) -> None:
    for statistics in fit.statistics:
        parts = {name.partition("/")[2] for name in statistics if name.startswith("norm_before/")}
        before = sum(float(statistics[f"norm_before/{name}"]) ** 2 for name in parts) ** 0.5
        after = sum(float(statistics[f"norm_after/{name}"]) ** 2 for name in parts) ** 0.5
        assert abs(after - min(before, 1.0)) < 1e-3
    assert any(float(statistics["clipped"]) > 0 for statistics in fit.statistics)


ROWS = (
    Golden(
        AdaGC(1.04, beta=0.5, warmup_steps=2, max_norm=3.0),
        (-37.8994446, 13.0982842, -69.5461815),
        does=ClipToOwnPast(1.04, beta=0.5, warmup_steps=2, max_norm=3.0),
        overlay="ada_gc",
        effect=_clips_all_together_in_the_warmup,
    ),
    Golden(
        AdaGC(1.01, beta=0.9, warmup_steps=1, max_norm=50.0, components="projection"),
        (-247.03125, 55.137966, -413.979725),
        does=ClipToOwnPast(1.01, "projection", beta=0.9, warmup_steps=1, max_norm=50.0),
    ),
    Golden(
        AdaGC(1.2, warmup_steps=2, max_norm=5.0, components="global"),
        (-63.165741, 21.8304767, -143.811574),
        does=ClipToOwnPast(1.2, "global", warmup_steps=2, max_norm=5.0),
    ),
)
