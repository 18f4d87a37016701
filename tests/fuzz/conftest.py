from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest

from tests.fuzz.cases import Case, CaseResult, try_in
from tests.fuzz.material import ROWS, save_model, task, to_yaml

Run = Callable[..., CaseResult]


@pytest.fixture(scope="package")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder shared by all cases, with the cache of `datasets`."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


@pytest.fixture(scope="package")
def model(shared_folder: Path) -> str:
    return save_model(shared_folder / "model")


@pytest.fixture
def run(model: str, tmp_path: Path) -> Run:
    """Run a command line in a folder with a good `task.yaml` and `train.csv`, and judge the result."""

    def run(*arguments: str, **files: bytes) -> CaseResult:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        named = {f"{name}.yaml": content for name, content in files.items()}
        common = {"task.yaml": to_yaml(task(model)), "train.csv": ROWS.encode()}
        return try_in(folder, Case(" ".join(arguments), arguments, {**common, **named}))

    return run
