"""Simulated results of arms with known effects."""

from math import nan
from pathlib import Path

import numpy as np

from lightning_sparsegrad.studies._run_results import RunResult
from lightning_sparsegrad.studies._study import Study

BAR = 0.5


def study_of(*arms: str, seeds: int = 20, **arguments: object) -> Study:
    return Study(base=[], arms={arm: [] for arm in arms}, seeds=seeds, metric="val/accuracy", **arguments)  # type: ignore[arg-type]


def simulate(
    arm: str,
    *,
    mean: float = 0.8,
    deviation: float = 0.02,
    failing: float = 0.0,
    seeds: int = 20,
    setting: str = "",
    parts: dict[str, float] | None = None,
    folder: Path = Path(),
    sign: int = 1,
) -> list[RunResult]:
    """Return results with normal values, a share of them at the bar; `parts` gives offsets from the value by part."""
    generator = np.random.default_rng(sum(f"{arm} {setting}".encode()))
    results = []
    for seed in range(seeds):
        value = BAR if generator.random() < failing else float(generator.normal(mean, deviation))
        results.append(
            RunResult(
                arm=arm,
                setting=setting,
                seed=seed,
                value=value,
                bar=BAR,
                sign=sign,
                seconds=10.0 + seed,
                parts={part: value + gain for part, gain in (parts or {}).items()},
                curve={10: 0.5, 20: (value + 0.5) / 2, 30: value},
                folder=folder / f"{arm} {setting} {seed}",
            )
        )
    return results


def broken(arm: str, seed: int, setting: str = "") -> RunResult:
    return RunResult(arm=arm, setting=setting, seed=seed, value=nan, bar=BAR, sign=1, error="RuntimeError: a bug")
