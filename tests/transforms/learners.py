"""The clips that learn, each with its slow reference, for tests of what they share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_sparsegrad import AdaGC, AutoClip, ZClip
from tests.transforms.golden._adaptive import AdaptiveClip
from tests.transforms.golden.ada_gc import ClipToOwnPast
from tests.transforms.golden.auto_clip import ClipToPercentile
from tests.transforms.golden.zclip import ClipOutliers

ROLES = {"*.weight": "weights", "*": "biases"}


@dataclass(frozen=True)
class Clip:
    """A strategy and its reference, for given components, with short warm-ups.

    Args:
        name: Of the case.
        make: Makes the strategy.
        slow: Makes the reference.
    """

    name: str
    make: Callable[[Any], Any]
    slow: Callable[[Any], AdaptiveClip]

    def __str__(self) -> str:
        return self.name


CLIPS = (
    Clip(
        "AutoClip",
        lambda components: AutoClip(50.0, components=components, history=40),
        lambda components: ClipToPercentile(50.0, components, history=40),
    ),
    Clip(
        "ZClip",
        lambda components: ZClip(warmup_steps=10, max_norm=1e4, components=components),
        lambda components: ClipOutliers(2.5, components, warmup_steps=10, max_norm=1e4),
    ),
    Clip(
        "ZClip to a percentile",
        lambda components: ZClip(
            1.5, mode="percentile", alpha=0.9, warmup_steps=5, max_norm=float("inf"), components=components
        ),
        lambda components: ClipOutliers(
            1.5, components, mode="percentile", alpha=0.9, warmup_steps=5, max_norm=float("inf")
        ),
    ),
    Clip(
        "ZClip to the mean",
        lambda components: ZClip(mode="mean", alpha=0.9, warmup_steps=3, max_norm=1.5, components=components),
        lambda components: ClipOutliers(2.5, components, mode="mean", alpha=0.9, warmup_steps=3, max_norm=1.5),
    ),
    Clip(
        "AdaGC",
        lambda components: AdaGC(1.3, beta=0.8, warmup_steps=10, components=components),
        lambda components: ClipToOwnPast(1.3, components, beta=0.8, warmup_steps=10),
    ),
)
