import gc
import signal

import pytest
import torch

# the models are tiny: a second thread costs more than it brings
torch.set_num_threads(1)

# a shell that starts this in the background has Ctrl+C ignored, by what is started here as well
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `long`, unless markers are asked for by `-m`."""
    if config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in set(long)]


def pytest_collection_finish() -> None:
    """Take what was imported out of the garbage collector's sight: Lightning's searches call it in every trial."""
    gc.collect()
    gc.freeze()
