"""The command line: `sparsegrad fit --config task.yaml --config strategy.yaml --model.gradient_transform.rate=0.4`."""

import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_sparsegrad.cli._overview import fault_in, print_overview
from lightning_sparsegrad.cli._printing import only_prints, print_only
from lightning_sparsegrad.cli._threads import wait_passively
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.untrusted._terminal import shown, slow_down_bars

__all__ = ["SparseGradArgumentParser", "SparseGradCLI", "StoreConfigCallback", "main"]  # noqa: F822  # the lazy ones

_OTHERS = (
    "`explain` says what a strategy will do; `calibrate` writes a mask of what trains; `study` compares strategies "
    "over many runs of `fit`; `export` writes a checkpoint as a folder for `transformers`, or as a "
    "delta to its base model."
)


def __getattr__(name: str) -> Any:
    if name == "StoreConfigCallback":
        return import_module("lightning_sparsegrad.cli._run_config").StoreConfigCallback
    if name in __all__:
        return getattr(import_module("lightning_sparsegrad.cli"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(args: list[str] | None = None) -> None:
    """Run the command line; an error that the user can fix ends it with one line on stderr and status 2.

    Such errors are a `ConfigurationError`, Lightning's `MisconfigurationException`, a `FloatingPointError` (a fit
    diverged, or `nonfinite="raise"` ended it), and an `OSError` (a file or folder is missing or cannot be written, or
    the disk is full). Any other error may be a bug and keeps its traceback.

    SIGTERM ends the command with status 143 and Ctrl+C with status 130; one line on stderr names the checkpoint to
    resume from, see `SparseGradCLI`. A SIGTERM handler that the program installed stays in use. All handlers are
    restored at the end.

    With the arguments of the process, OpenMP threads wait as `wait_passively` describes.

    Args:
        args: The arguments; by default those of the process.
    """
    arguments = sys.argv[1:] if args is None else args
    if arguments[:1] in (["-h"], ["--help"]):
        print_overview()
        raise SystemExit(0)
    if fault := fault_in(arguments):
        raise _refusal(shown(fault))
    try:
        if args is None:
            wait_passively()  # before anything imports torch
            slow_down_bars()  # before torch imports tqdm
            if only_prints(arguments):
                print_only(lambda: _main(args, arguments))
        _main(args, arguments)
    except KeyboardInterrupt as error:  # during the imports
        if sys.stderr is not None:
            sys.stderr.write(f"{_about_stop(arguments)}\n")
        raise SystemExit(130) from error


def _main(args: list[str] | None, arguments: list[str]) -> None:
    # these import torch and Lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from lightning_sparsegrad.cli._faults import debugging, one_line
    from lightning_sparsegrad.cli._quiet import quiet
    from lightning_sparsegrad.resume._launched import end_with_launcher
    from lightning_sparsegrad.resume._signals import SIGNALS, end
    from lightning_sparsegrad.untrusted._terminal import controls_shown

    end_with_launcher()
    with SIGNALS.ending():
        try:
            with controls_shown(), nullcontext() if debugging() else quiet(arguments):
                _run(args, arguments)
        except (ConfigurationError, MisconfigurationException, OSError, FloatingPointError) as error:
            if debugging():
                raise
            raise _refusal(one_line(error)) from error
        except (SystemExit, KeyboardInterrupt) as error:
            end(error, _about_stop(arguments))


def _about_stop(arguments: list[str]) -> str:
    return f"stopped before `{arguments[0]}` was done"


def _refusal(line: str) -> SystemExit:
    if sys.stderr is not None:
        sys.stderr.write(f"error: {line}\n")
    return SystemExit(2)


def _run(args: list[str] | None, arguments: list[str]) -> None:
    if arguments[:1] == ["study"]:
        _study(arguments[1:])
    elif arguments[:1] == ["explain"]:
        import_module("lightning_sparsegrad.explain._command").main(arguments[1:])
    elif arguments[:1] == ["calibrate"]:
        import_module("lightning_sparsegrad.calibrate._command").main(arguments[1:])
    elif arguments[:1] == ["export"]:
        import_module("lightning_sparsegrad.export._command").main(arguments[1:])
    else:
        cli = import_module("lightning_sparsegrad.cli.sparsegrad_cli")
        # `python -m` puts the path of `__main__.py` here, which is no command
        prog = "sparsegrad" if Path(sys.argv[0]).name == "__main__.py" else None
        cli.SparseGradCLI(args=args, parser_kwargs={"epilog": _OTHERS, "prog": prog})


def _study(arguments: list[str]) -> None:
    try:
        command = import_module("lightning_sparsegrad.studies._command")  # it starts this one, run by run
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"`study` should have the packages of its report: `pip install lightning-sparsegrad[studies]`. "
            f"Found no `{error.name}`."
        ) from error
    command.main(arguments)
