"""Checkpoints of 0.1 resume to the results of 0.1 itself, bit by bit."""

import lzma
from pathlib import Path

import pytest

from tests.compatibility.record import RECORDED, read, resumable

RESUMED = read("resumed")

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*tensorboardX", "ignore:Be aware that when"
)


@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_is_resumed_as_it_was(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "")  # restored at the end, whatever the fit sets
    path = tmp_path / "old.ckpt"
    path.write_bytes(lzma.decompress((RECORDED / f"{name.replace(' ', '_')}.ckpt.xz").read_bytes()))
    assert resumable(name, path=path) == RESUMED[name]
