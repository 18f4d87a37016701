"""The tables of a report: markdown for people, CSV for programs."""

from collections.abc import Sequence
from math import isnan, nan
from statistics import fmean

import pandas as pd

from lightning_sparsegrad.metrics._evaluation_table import to_markdown
from lightning_sparsegrad.studies._comparison import Difference, Summary, paired
from lightning_sparsegrad.studies._inference import Interval, mean_interval
from lightning_sparsegrad.studies._run_results import RunResult
from lightning_sparsegrad.studies._study import Study


def runs_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """Return a row for each run."""
    return pd.DataFrame(
        [
            {
                "setting": run.setting,
                "arm": run.arm,
                "seed": run.seed,
                "value": run.value,
                "bar": run.bar,
                "failed": run.failed,
                "error": run.error,
                "seconds": run.seconds,
                "run": run.folder.name,
                **run.parts,
            }
            for run in results
        ]
    )


def arms_table(summaries: Sequence[Summary]) -> pd.DataFrame:
    """Return a row for each arm in each setting."""
    return pd.DataFrame(
        [
            {
                "setting": summary.setting,
                "arm": summary.arm,
                "runs": len(summary.results),
                "failed": summary.failed,
                **_ends("mean", summary.mean),
                **_ends("deviation", summary.deviation),
                "min": min(summary.values, default=nan),
                "max": max(summary.values, default=nan),
                "seconds": summary.seconds,
            }
            for summary in summaries
        ]
    )


def differences_table(differences: Sequence[Difference]) -> pd.DataFrame:
    """Return a row for each arm against the baseline in each setting."""
    return pd.DataFrame(
        [
            {
                "setting": difference.setting,
                "arm": difference.arm,
                "pairs": difference.pairs,
                **_ends("difference", difference.mean),
                "p_mean": difference.p_mean,
                "deviation_ratio": difference.ratio,
                "p_variance": difference.p_variance,
                "more_failures": difference.failures,
                "p_failures": difference.p_failures,
                "verdict": difference.verdict,
            }
            for difference in differences
        ]
    )


def arms_markdown(summaries: Sequence[Summary]) -> str:
    """Return the table of the arms in one setting."""
    heading = ["arm", "runs", "failed", "mean [95%]", "std [95%]", "min", "max", "seconds a run"]
    rows = [
        [
            summary.arm,
            str(len(summary.results)),
            str(summary.failed),
            _interval(summary.mean),
            _interval(summary.deviation),
            _number(min(summary.values, default=nan)),
            _number(max(summary.values, default=nan)),
            _number(summary.seconds, digits=1),
        ]
        for summary in summaries
    ]
    return to_markdown([heading, *rows])


def differences_markdown(differences: Sequence[Difference]) -> str:
    """Return the table of the differences in one setting."""
    heading = ["arm", "pairs", "difference [95%]", "p", "std ratio", "p", "failed more", "p", "shown"]
    rows = [
        [
            difference.arm,
            str(difference.pairs),
            _interval(difference.mean, sign="+"),
            _p(difference.p_mean),
            _number(difference.ratio, digits=2),
            _p(difference.p_variance),
            f"{difference.failures:+d}",
            _p(difference.p_failures),
            difference.verdict,
        ]
        for difference in differences
    ]
    return to_markdown([heading, *rows])


def parts_table(summaries: Sequence[Summary]) -> pd.DataFrame:
    """Return the means over the seeds by part of the data, with a row for each arm in each setting."""
    rows = []
    for summary in summaries:
        runs = [run for run in summary.results.values() if run.parts]
        names = dict.fromkeys(part for run in runs for part in run.parts)
        means = {part: fmean(run.parts[part] for run in runs if part in run.parts) for part in names}
        if means:
            rows.append({"setting": summary.setting, "arm": summary.arm, **means})
    return pd.DataFrame(rows)


def parts_markdown(table: pd.DataFrame, *, columns: int = 12) -> str:
    """Return the parts in one setting as tables of at most `columns` parts."""
    names = [name for name in table.columns if name not in {"setting", "arm"}]
    blocks = [names[start : start + columns] for start in range(0, len(names), columns)]
    return "\n".join(
        to_markdown(
            [
                ["arm", *block],
                *([str(row["arm"]), *(_number(row[name]) for name in block)] for row in table.to_dict("records")),
            ]
        )
        for block in blocks
    )


def groups_markdown(study: Study, summaries: Sequence[Summary]) -> str:
    """Return the means over groups of parts, and their differences from the baseline."""
    baseline = next((summary for summary in summaries if summary.arm == study.reference), None)
    rows = []
    for summary in summaries:
        cells = [summary.arm]
        for parts in study.groups.values():
            runs = {seed: of_group(run, parts) for seed, run in summary.results.items()}
            values = [value for value in runs.values() if not isnan(value)]
            cells.append(_interval(mean_interval(values)) if values else "")
            cells.append(
                ""
                if baseline is None or summary is baseline
                else _interval(_against(summary, baseline, parts), sign="+")
            )
        rows.append(cells)
    heading = ["arm", *(cell for group in study.groups for cell in (f"{group} [95%]", "difference [95%]"))]
    return to_markdown([heading, *rows])


def _against(summary: Summary, baseline: Summary, parts: Sequence[str]) -> Interval:
    shared = [seed for seed in summary.results if seed in baseline.results]
    differences = [of_group(summary.results[seed], parts) - of_group(baseline.results[seed], parts) for seed in shared]
    known = [difference for difference in differences if not isnan(difference)]
    return mean_interval(known) if known else Interval(nan)


def of_group(run: RunResult, parts: Sequence[str]) -> float:
    """Return the unweighted mean of a run's values over parts of the data; undefined if it has none of them."""
    values = [run.parts[part] for part in parts if part in run.parts]
    return fmean(values) if values else nan


def part_gain(summary: Summary, baseline: Summary, part: str) -> Interval:
    """Return the mean gain on one part of the data over the baseline, seed by seed."""
    shared = [seed for seed in summary.results if seed in baseline.results]
    known = paired([(summary.results[seed], baseline.results[seed]) for seed in shared], part)
    return mean_interval(known) if known else Interval(nan)


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value} | {f"{name}_{end}": getattr(interval, end) for end in ("low", "high")}


def _interval(interval: Interval, *, sign: str = "") -> str:
    ends = "" if isnan(interval.low) else f" [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"
    return "" if isnan(interval.value) else f"{interval.value:{sign}.3f}{ends}"


def _number(value: object, *, digits: int = 3) -> str:
    return "" if not isinstance(value, float) or isnan(value) else f"{value:.{digits}f}"


def _p(value: float) -> str:
    return "" if isnan(value) else f"{value:.3f}" if value >= 0.001 else "<0.001"
