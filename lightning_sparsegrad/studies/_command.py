"""The command `sparsegrad study --config STUDY.yaml`, which runs missing runs of a study and writes its report."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_sparsegrad.callbacks._lines import is_terminal
from lightning_sparsegrad.cli.parser import SparseGradArgumentParser
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.studies._launchers import Launcher, launch
from lightning_sparsegrad.studies._report import FILES, write_report
from lightning_sparsegrad.studies._run_results import run_results
from lightning_sparsegrad.studies._runs import CONFIG, Run, make_runs
from lightning_sparsegrad.studies._study import Study, Trial
from lightning_sparsegrad.studies._study_lines import StudyLines
from lightning_sparsegrad.untrusted._terminal import shown

_RUNS, _QUICK = "runs", "quick"
_OPTIONAL = {"grid", "groups", "needs", "trial"}  # keys that a file may leave empty


def main(args: list[str]) -> None:
    """Run the command.

    Args:
        args: The arguments after `study`.

    Raises:
        ConfigurationError: If the study cannot be read, or another process works in its folder.
    """
    parser = _parser()
    given = parser.parse_args(args)
    own = {"config", "folder", "jobs", "launcher", "quick", "retry", "print_commands", "report_only"}
    arguments = {name: value for name, value in given.as_dict().items() if name not in own}  # classes stay names
    arguments = {name: value for name, value in arguments.items() if value is not None or name not in _OPTIONAL}
    study = Study(**{**arguments, "trial": Trial(**arguments.get("trial", {}))})
    if given.jobs < 1:
        raise ConfigurationError(f"Parameter `jobs` should be positive. Found `jobs = {given.jobs}`.")
    name = Path(str(given.config[-1])).stem if given.config else "study"
    folder = Path(given.folder or Path("studies", name))
    if given.quick:
        study, folder = study.quickened(), folder / _QUICK
    runs = make_runs(study, (folder / _RUNS).absolute())
    _require_own(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            missing = [run for run in runs if _is_missing(run, retry=given.retry)]
            if given.print_commands:
                _print_commands(missing)
                return
            if study.warning:
                get_console().print(shown(study.warning), markup=False, highlight=False)
            if not given.report_only:
                _require_material(study)
                lines = StudyLines(study, done=len(runs) - len(missing), total=len(runs), jobs=given.jobs)
                _run(missing, lines, done=len(runs) - len(missing), launcher=given.launcher, jobs=given.jobs)
            _report(study, runs, folder)
    except Timeout as error:
        raise ConfigurationError(
            f"Parameter `folder` should not be in use by another process. Found `folder = {folder}`, in which one runs "
            f"a study."
        ) from error


def _require_own(folder: Path) -> None:
    """Refuse a folder that is not of a study and holds files that the report would overwrite."""
    taken = [name for name in FILES if (folder / name).exists()]
    if taken and not any((folder / _RUNS).glob(f"*/{CONFIG}")):
        raise ConfigurationError(
            f"Parameter `folder` should be new, or that of a study: its report would overwrite `{taken[0]}`. "
            f"Found `folder = {folder}`."
        )


def _require_material(study: Study) -> None:
    for name, how in study.needs.items():
        if not Path(name).exists():
            raise ConfigurationError(f"The runs of this study read `{name}`. Found none: {how}.")


def _parser() -> SparseGradArgumentParser:
    parser = SparseGradArgumentParser(
        prog="sparsegrad study", description="Fit every arm with every seed, and compare the arms."
    )
    parser.add_argument("-c", "--config", action="config", help="The YAML file of the study.")
    parser.add_class_arguments(Study)
    parser.add_argument("--folder", type=str, default=None, help="Folder of runs and report; `studies/CONFIG` if null.")
    parser.add_argument("--jobs", type=int, default=1, help="Number of runs at a time.")
    parser.add_argument("--launcher", type=Launcher, default="local", help="Where to start the runs.")
    parser.add_argument("--quick", action="store_true", help="Run the quick version, in a separate folder.")
    parser.add_argument("--retry", action="store_true", help="Rerun the runs that ended with an error.")
    parser.add_argument(
        "--print_commands",
        "--print-commands",
        action="store_true",
        help="Write the configs of missing runs and print their commands, without running them.",
    )
    parser.add_argument(
        "--report_only", action="store_true", help="Report on the runs that have ended, without running any."
    )
    return parser


def _is_missing(run: Run, *, retry: bool) -> bool:
    result = run.result
    return result is None or (retry and "error" in result)


def _print_commands(runs: Sequence[Run]) -> None:
    for run in runs:
        run.write()
        print(shlex.join(["sparsegrad", *run.command]))  # noqa: T201  # the command's output


def _run(runs: Sequence[Run], lines: StudyLines, *, done: int, launcher: Launcher, jobs: int) -> None:
    console = get_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=console, disable=not is_terminal("stdout")) as progress, lines.writing():
        task = progress.add_task("runs", total=done + len(runs), completed=done)
        for run in launch(runs, launcher, jobs=jobs):
            result = run.result
            if result is None:
                reason = f"{run.name} has not ended: it was stopped, or another process runs it."
                console.print(shown(reason), markup=False, highlight=False, soft_wrap=True)
            elif "error" in result:
                text = shown(f"{run.name} failed: {result['error']}")
                console.print(text, markup=False, highlight=False, soft_wrap=True)
            elif "diverged" in result:
                console.print(shown(f"{run.name} diverged."), markup=False, highlight=False, soft_wrap=True)
            lines.ended(run)
            progress.update(task, advance=1, refresh=True)


def _report(study: Study, runs: Sequence[Run], folder: Path) -> None:
    ended = [run for run in runs if run.result is not None]
    if not ended:
        raise ConfigurationError(f"A report should have at least one run that has ended. Found none in `{folder}`.")
    report = write_report(study, run_results(ended, study), folder, missing=len(runs) - len(ended))
    get_console().print(shown(report), markup=False, highlight=False, soft_wrap=True)
