"""Settings of the whole suite: threads, signals, in how many processes it runs, and what it leaves out by default."""

import gc
import os
import signal
from collections import Counter

import pytest
import torch

# the models are tiny: a second thread costs more than it brings, here and in processes that tests start
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell that starts this in the background has Ctrl+C ignored, by what is started here as well
signal.signal(signal.SIGINT, signal.default_int_handler)

# files of a few tests that take minutes: at the end, one process would run them while the others have nothing to do
LONGEST = (
    "configs/test_two_processes.py",
    "docs/test_site.py",
    "documents/test_console.py",
    "loops/same_weights/test_same_weights.py",
    "matrix/test_ddp.py",
    "resume/test_kills.py",
    "resume/test_two_processes.py",
    "studies/test_command.py",
    "studies/test_inference.py",
    "tests/test_four_touches.py",
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run a few chosen tests in this process, which starts sooner and shows what they print."""
    chosen = any("::" in argument or argument.endswith(".py") for argument in config.args)
    return 0 if chosen or config.option.keyword or config.option.capture == "no" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `long`, unless markers are asked for by `-m`; begin with files that take long."""
    if not config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    if "PYTEST_XDIST_WORKER" in os.environ:
        sizes = Counter(item.path for item in items)
        items.sort(key=lambda item: (not item.path.as_posix().endswith(LONGEST), -sizes[item.path], item.path))


def pytest_collection_finish() -> None:
    """Take what was imported out of the garbage collector's sight: Lightning's searches call it in every trial."""
    gc.collect()
    gc.freeze()
