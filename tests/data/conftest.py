import datasets
import pytest

from tests.data.helpers import LABELS, SENTENCES, save_tokenizer, write


@pytest.fixture(scope="package", autouse=True)
def cache(tmp_path_factory):
    """A cache of `datasets` separate from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield folder


@pytest.fixture(autouse=True)
def no_global_seed(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # noted, so that what a test leaves is taken back
    monkeypatch.delenv("PL_GLOBAL_SEED")


@pytest.fixture
def tokenizer(tmp_path):
    return save_tokenizer(tmp_path / "tokenizer", {"pad_token": "[PAD]"})


@pytest.fixture
def files(tmp_path):
    return {
        "train": write(tmp_path / "train.csv", text=SENTENCES, label=LABELS),
        "validation": write(tmp_path / "validation.csv", text=SENTENCES[:3], label=LABELS[:3]),
    }
