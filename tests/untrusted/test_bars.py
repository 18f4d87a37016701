"""Progress bars of other libraries in a log."""

import os
from contextlib import redirect_stderr
from io import StringIO

import pytest

from lightning_sparsegrad.untrusted._terminal import slow_down_bars

NAMES = ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_write_to_a_log_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    with redirect_stderr(Terminal()):
        slow_down_bars()
    assert not set(NAMES) & os.environ.keys()
    monkeypatch.setenv("TQDM_MAXINTERVAL", "5")
    with redirect_stderr(StringIO()):
        slow_down_bars()
    assert [os.environ[name] for name in NAMES] == ["60", "5"]
