"""The report of a study: `report.md`, its tables as CSV, and its pictures."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lightning_sparsegrad.files._writing import replacing
from lightning_sparsegrad.studies import _report_pictures as pictures
from lightning_sparsegrad.studies import _report_tables as tables
from lightning_sparsegrad.studies._comparison import Difference, Summary, compare, summarise
from lightning_sparsegrad.studies._run_results import RunResult
from lightning_sparsegrad.studies._study import Study

REPORT = "report.md"
_TABLES = ("runs", "arms", "differences", "parts")
_PICTURES = ("distributions", "curves", "parts", "clip_rate", "norms", "heatmap", "distances", "directions")
FILES = (
    REPORT,
    *(f"{name}.csv" for name in _TABLES),
    *(f"{name}.png" for name in _PICTURES),
)  # all files that a report may write


def write_report(study: Study, results: Sequence[RunResult], folder: Path, *, missing: int = 0) -> str:
    """Write the report of the runs that have ended, and return its text; the same runs make the same report.

    Args:
        study: The study.
        results: The results of its runs that have ended.
        folder: The folder of the report.
        missing: The number of runs that have not ended.
    """
    results = sorted(results, key=lambda run: (list(study.arms).index(run.arm), run.setting, run.seed))
    summaries = summarise(study, results)
    differences = compare(study, summaries)
    folder.mkdir(parents=True, exist_ok=True)
    parts = tables.parts_table(summaries)
    for name, table in {
        "runs": tables.runs_table(results),
        "arms": tables.arms_table(summaries),
        "differences": tables.differences_table(differences),
        "parts": parts,
    }.items():
        if table.empty:
            (folder / f"{name}.csv").unlink(missing_ok=True)  # from an earlier report
        else:
            with replacing(folder / f"{name}.csv") as file:
                file.write(table.to_csv(index=False).encode())
    drawn = pictures.draw_all(study, summaries, folder)
    text = _text(study, summaries, differences, parts, drawn, missing)
    with replacing(folder / REPORT) as file:
        file.write(text.encode())
    return text


def _text(
    study: Study,
    summaries: Sequence[Summary],
    differences: Sequence[Difference],
    parts: pd.DataFrame,
    drawn: dict[str, str],
    missing: int,
) -> str:
    runs = sum(len(summary.results) for summary in summaries)
    lines = [
        f"# {study.metric}: {len(study.arms)} arms, {len(study.all_seeds)} seeds",
        "",
        f"{runs} runs{f', {missing} more are missing' if missing else ''}. {_HOW.format(baseline=study.reference)}",
        *(["", study.warning] if study.warning else []),
    ]
    for setting, _ in study.settings():
        within = [summary for summary in summaries if summary.setting == setting]
        against = [difference for difference in differences if difference.setting == setting]
        if not within:
            continue
        lines += ["", f"## {setting or 'All runs'}", "", _bar(within), "", tables.arms_markdown(within)]
        if against:
            lines += [f"Against `{study.reference}`:", "", tables.differences_markdown(against)]
        if study.groups and any(run.parts for summary in within for run in summary.results.values()):
            lines += [_groups(study, within), "", tables.groups_markdown(study, within)]
        if not parts.empty and (of_setting := parts[parts["setting"] == setting]).size:
            lines += ["Means of parts:", "", tables.parts_markdown(of_setting)]
    errors = [run for summary in summaries for run in summary.results.values() if run.error]
    if errors:
        lines += ["", "## Runs that diverged or ended with an error", ""]
        lines += [f"- {run.folder.name}: {run.error}" for run in errors]
    for path, caption in drawn.items():
        lines += ["", f"![{caption}]({path})", "", caption]
    return "\n".join(lines).replace("\n\n\n", "\n\n").strip() + "\n"


def _bar(summaries: Sequence[Summary]) -> str:
    bars = [run.bar for summary in summaries for run in summary.results.values() if run.bar == run.bar]
    if not bars:
        return "No bar defines which runs have failed."
    low, high = f"{min(bars):.3f}", f"{max(bars):.3f}"
    return f"A run has failed if it is no better than {low if low == high else f'its bar, from {low} to {high}'}."


def _groups(study: Study, summaries: Sequence[Summary]) -> str:
    known = {part for summary in summaries for run in summary.results.values() for part in run.parts}
    unknown = ", ".join(f"`{part}`" for parts in study.groups.values() for part in parts if part not in known)
    return f"Means over groups of parts{unknown and f'; no run has {unknown}'}:"


_HOW = (
    "Intervals are 95% bootstrap intervals (bias-corrected, accelerated, widened for small samples) and need six "
    "values. Differences from `{baseline}` are taken seed by seed. Means are compared by a paired permutation test, "
    "standard deviations by the Brown-Forsythe test, and failed runs by McNemar's exact test, each with Holm's "
    "correction over the arms of a setting. An effect is shown if p < 0.05 and, for means, the interval excludes zero "
    "or, for standard deviations, the ratio agrees."
)
