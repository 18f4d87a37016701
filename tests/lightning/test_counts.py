"""Several processes evaluate each row once, and predict it once, however unevenly they share the rows."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cases import cases
from tests.launch import launch

from .counted import ROWS, evaluate, kinds, prepare, written

pytestmark = [pytest.mark.long, pytest.mark.distributed]
CASES = list(kinds(Path()))

Results = list[dict[str, Any]]  # by process, then by case


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        prepare(folder)
        yield folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of correlations over a row or two
        return evaluate(folder, folder / "alone", 1)


@pytest.fixture(scope="module", params=[3, 2], ids=["three", "two"])
def together(request: pytest.FixtureRequest, folder: Path, alone: Any) -> Results:
    """Run all cases in n processes, started once; a part has fewer rows than there are processes."""
    launch("tests.lightning.counted", request.param, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@cases("stage", ["val", "test", "majority"])
@cases("case", CASES)
def test_what_is_measured_is_what_one_process_measures(
    case: str, stage: str, alone: dict[str, Any], together: Results
) -> None:
    expected = alone[case][stage]
    assert len(expected) > 3 or stage == "majority"
    for result in together:
        assert result[case][stage] == pytest.approx(expected, rel=1e-5, nan_ok=True)


@cases("case", CASES)
def test_each_row_is_predicted_once_and_in_order(
    case: str, alone: dict[str, Any], together: Results, folder: Path
) -> None:
    assert sum(result[case]["returned"] for result in together) == alone[case]["returned"]
    files = written(folder / "alone" / case)
    assert len(files) >= 2
    shared = written(folder / "shared" / case)
    if case not in ("numbers", "one by one", "grades"):
        assert shared == files
        return
    for name, text in files.items():
        for line, expected in zip(shared.pop(name).splitlines(), text.splitlines(), strict=True):
            assert line == expected or list(map(float, line.split())) == pytest.approx(
                list(map(float, expected.split())), rel=1e-4
            )
    assert not shared


def test_of_loaders_of_ones_own_the_rows_that_count_twice_are_named(alone: dict[str, Any], together: Results) -> None:
    repeated = -ROWS["de"] % len(together)
    as_it_is, once = (together[0]["own loaders"][name] for name in ("as it is", "each once"))
    (text,) = as_it_is["messages"]
    assert text.startswith(f"{repeated} of the rows to evaluate count twice: Lightning's `DistributedSampler` repeats")
    assert as_it_is["val"]["val/loss"] != pytest.approx(alone["own loaders"]["as it is"]["val"]["val/loss"], rel=1e-5)
    assert once["messages"] == []
    for result in together:
        measured = result["own loaders"]["each once"]["val"]
        assert measured == pytest.approx(alone["own loaders"]["each once"]["val"], rel=1e-5)
