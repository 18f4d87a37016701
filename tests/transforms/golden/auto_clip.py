"""The golden rows of AutoClip."""

from collections.abc import Mapping
from math import inf, nan

from lightning_sparsegrad import AutoClip
from tests.transforms.golden._adaptive import AdaptiveClip, Memory, percentile, teaches
from tests.transforms.golden._row import Fit, Golden


class ClipToPercentile(AdaptiveClip):
    """AutoClip."""

    def __init__(self, share: float, kind: str | Mapping[str, str] = "global", *, history: int = 256) -> None:
        super().__init__(kind)
        self.share, self.history = share, history

    def threshold(self, memory: Memory, length: float, everything: float) -> float:
        if self.share == 100:
            return inf
        norms = [*memory.norms, length] if teaches(length) else memory.norms
        return percentile(norms[-self.history :], self.share)

    def learn(self, memory: Memory, length: float, everything: float) -> None:
        memory.norms = [*memory.norms, length][-self.history :]

    def typical(self, memory: Memory) -> float:
        return percentile(memory.norms, self.share) if memory.norms else nan


def _clips_to_what_was_small_so_far(fit: Fit) -> None:
    norms: list[float] = []
    for statistics in fit.statistics:
        norms.append(float(statistics["norm_before/all"]))
        bound = percentile(norms, 10)
        assert abs(float(statistics["threshold/all"]) - bound) < 1e-4 * bound
        assert abs(float(statistics["norm_after/all"]) - min(norms[-1], bound)) < 1e-4 * bound
    assert any(float(statistics["clipped"]) > 0 for statistics in fit.statistics)


ROWS = (
    Golden(
        AutoClip(10.0),
        (-247.03125, 84.0625, -462.251758),
        does=ClipToPercentile(10.0),
        overlay="auto_clip",
        effect=_clips_to_what_was_small_so_far,
    ),
    Golden(
        AutoClip(30.0, components="projection", history=3),
        (-247.03125, 61.5334083, -427.08875),
        does=ClipToPercentile(30.0, "projection", history=3),
    ),
    Golden(
        AutoClip(0.0, components={"*blocks.*": "blocks", "*": "rest"}),
        (-247.03125, 84.0625, -460.877281),
        does=ClipToPercentile(0.0, {"*blocks.*": "blocks", "*": "rest"}),
    ),
)
