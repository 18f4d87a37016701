"""The results of `benchmarks/studies`, by overlay."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from docs._overlays import Overlay
from tests.strategies import ROOT

RESULTS = ROOT / "benchmarks" / "studies" / "results"
CONFIGS = ROOT / "configs" / "studies"


@dataclass(frozen=True)
class Result:
    """An arm of a study in one setting.

    Attributes:
        study: Name of the study.
        overlay: Name of the overlay that the arm is made of.
        cells: Arm, setting, failed runs, mean, difference to the baseline, p and seconds a run, as text.
    """

    study: str
    overlay: str
    cells: tuple[str, ...]


@cache
def results() -> tuple[Result, ...]:
    """Read the results of every study whose results are in the repository."""
    return tuple(result for folder in sorted(RESULTS.iterdir()) for result in _of_study(folder))


def table(overlays: Sequence[Overlay]) -> Iterator[str]:
    """Yield a table of what the studies measured with some overlays, as lines of reStructuredText."""
    names = [overlay.name for overlay in overlays]
    rows = [result for result in results() if result.overlay in names]
    if not rows:
        yield "No study of this repository has run it: there are no numbers to show.\n"
        return
    yield "What the studies measured, against the baseline of each; intervals are of 95%.\n"
    yield ".. list-table::\n   :header-rows: 1\n   :class: numbers\n"
    yield from _row(("study", "arm", "setting", "failed", "mean", "difference", "p", "seconds"))
    for row in rows:
        yield from _row((links([row.study]), *row.cells))
    yield ""


def links(studies: Sequence[str]) -> str:
    """Return links to the reports of studies."""
    return ", ".join(f":doc:`{study} <../studies/{study}>`" for study in studies)


def _row(cells: Sequence[str]) -> Iterator[str]:
    for index, cell in enumerate(cells):
        yield f"   {'* -' if index == 0 else '  -'} {cell}"


def _of_study(folder: Path) -> Iterator[Result]:
    arms = yaml.safe_load((CONFIGS / f"{folder.name}.yaml").read_text())["arms"]
    differences = {(row["setting"], row["arm"]): row for row in _rows(folder / "differences.csv")}
    for row in _rows(folder / "arms.csv"):
        overlays = [Path(base).stem for base in arms[row["arm"]] if isinstance(base, str)]
        difference = differences.get((row["setting"], row["arm"]))
        against = ("baseline", "") if difference is None else _against(difference)
        failed, mean, seconds = f"{row['failed']} of {row['runs']}", f"{float(row['mean']):.3f}", row["seconds"]
        cells = row["arm"], row["setting"], failed, mean, *against, f"{float(seconds):.0f}"
        for overlay in overlays:
            yield Result(folder.name, overlay, cells)


def _against(row: dict[str, str]) -> tuple[str, str]:
    low, high = row["difference_low"], row["difference_high"]
    interval = f" [{float(low):+.3f}, {float(high):+.3f}]" if low and high else ""
    p = float(row["p_mean"])
    return f"{float(row['difference']):+.3f}{interval}", "< 0.001" if p < 0.0005 else f"{p:.3f}"


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))
