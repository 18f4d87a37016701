"""Overlays in `configs/gradient`, with what their comments say."""

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from lightning_sparsegrad import GradientTransform
from tests.strategies import OVERLAYS, STRATEGIES, overlay_name, spec_in

SPIKES = "_spikes"  # after the name of an overlay: recording and picture of a run with bad batches
CHANGED = {"zclip": {"model.gradient_transform.max_norm": ".inf"}}
"""What differs from an overlay in that run: its ordinary norms are above the cap of ZClip."""


@dataclass(frozen=True)
class Overlay:
    """A file in `configs/gradient`, which begins with a comment.

    Attributes:
        file: The file.
        idea: The first sentence of the comment: the strategy, and what it does here.
        advice: The rest of it: when to use it and where its numbers come from, by the studies of this repository.
    """

    file: Path
    idea: str
    advice: str

    @property
    def name(self) -> str:
        """Name of the file without its suffix."""
        return self.file.stem

    @classmethod
    def read(cls, file: Path) -> "Overlay":
        """Read the comment of an overlay."""
        comment = takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
        idea, _, advice = " ".join(line.removeprefix("#").strip() for line in comment).partition(". ")
        return cls(file, f"{idea.removesuffix('.')}.", advice or "No study has run it.")


def overlays_of(strategy: type) -> list[Overlay]:
    """Return the overlays that name a strategy, that of its own name first."""
    names = [name for name in OVERLAYS if spec_in(name)["class_path"] == strategy.__name__]
    return [Overlay.read(OVERLAYS[name]) for name in sorted(names, key=lambda name: name != overlay_name(strategy))]


def learning() -> list[str]:
    """Return the names of the overlays whose strategy learns."""
    kinds = [kind for kind in STRATEGIES if issubclass(kind, GradientTransform) and kind.learns]
    return [overlay.name for kind in kinds for overlay in overlays_of(kind)]
