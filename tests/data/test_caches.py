"""Files that a killed run left in the cache are removed, and no others."""

import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from datasets import Dataset

from lightning_sparsegrad.data._caches import caching

LEFT, OTHERS = "tmp0a1b2c3d", ("tmp0a1b2c3d.arrow", "cache-0a1b2c3d.arrow", "mine")


@pytest.fixture
def rows(tmp_path: Path) -> Dataset:
    generated = Dataset.from_generator(lambda: iter([{"text": "a"}]), cache_dir=str(tmp_path))
    assert isinstance(generated, Dataset)
    for name in (LEFT, *OTHERS):
        (folder_of(generated) / name).touch()
    os.utime(folder_of(generated) / LEFT, (0, time.time() - 60))
    return generated


def folder_of(rows: Dataset) -> Path:
    return Path(rows.cache_files[0]["filename"]).parent


def there(rows: Dataset) -> set[str]:
    return {path.name for path in folder_of(rows).iterdir()} & {LEFT, *OTHERS}


def test_what_a_killed_run_left_goes(rows: Dataset) -> None:
    with caching(rows):
        assert there(rows) == set(OTHERS)
    with caching(Dataset.from_dict({"text": ["a"]})):  # not in a cache
        pass


def test_what_another_process_writes_stays(rows: Dataset) -> None:
    waits, ready = os.pipe()
    if not (process := os.fork()):
        with caching(rows):
            (folder_of(rows) / LEFT).touch()
            os.write(ready, b"1")
            time.sleep(60)
    os.read(waits, 1)
    os.utime(folder_of(rows) / LEFT, (0, 0))
    with caching(rows):
        assert LEFT in there(rows)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with caching(rows):
        assert LEFT not in there(rows)


@pytest.mark.parametrize(("age", "stays"), [(3600, True), (90_000, False)])
def test_where_other_programs_cache_what_is_new_stays(rows: Dataset, age: int, stays: bool) -> None:
    elsewhere = folder_of(rows).parents[2] / "of the hub"
    folder_of(rows).rename(elsewhere)
    os.utime(elsewhere / LEFT, (0, time.time() - age))

    class Moved:
        cache_files: ClassVar[Any] = [{"filename": str(elsewhere / "a.arrow")}]

    with caching(Moved()):
        assert (elsewhere / LEFT).exists() == stays
