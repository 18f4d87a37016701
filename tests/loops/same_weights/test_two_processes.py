"""Every loop adapter gives the weights of a loop written by hand, bit for bit, on each of two processes."""

import pytest

from tests.launch import launched

from .cells import TWO_PROCESSES, on_processes
from .table import read
from .test_one_process import STALE


@pytest.mark.long
@pytest.mark.distributed
def test_weights_are_as_recorded(tmp_path_factory: pytest.TempPathFactory, subtests: pytest.Subtests) -> None:
    recorded = {key: cell for key, cell in read().items() if key[0] == TWO_PROCESSES}
    measured = dict(on_processes(launched("tests.loops.same_weights", 2, tmp_path_factory), 2))
    assert measured.keys() == recorded.keys(), STALE
    for key, cell in measured.items():
        with subtests.test(", ".join(key[1:])):
            assert cell == recorded[key], STALE
