"""Helpers for the tests of the contract: a test for every golden row, and the allowed statistics."""

import pytest
from torch import Tensor

from tests.transforms.golden import GOLDEN

every_row = pytest.mark.parametrize("row", GOLDEN, ids=str)


def assert_statistics(statistics: dict[str, Tensor], *, finite: bool) -> None:
    for name, value in statistics.items():
        assert value.shape == (), name
        assert value.dtype.is_floating_point, name
        if name.rpartition("/")[2] in {"kept", "clipped"}:
            assert 0 <= float(value) <= 1, name
        elif any(f"{kind}/" in name for kind in ("norm_before", "norm_after", "threshold")):
            assert float(value) >= 0 or not finite, name
