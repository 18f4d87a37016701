"""Control characters in names and values do not reach a terminal."""

import ast
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from lightning_sparsegrad.cli._faults import one_line
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.main import main
from lightning_sparsegrad.metrics._evaluation_table import evaluation_table
from lightning_sparsegrad.untrusted._terminal import controls_shown, shown

EVIL = "\x1b]0;owned\x07\x9b2J\u202e\udc80\r"
CONTROLS = [each for each in EVIL if not each.isprintable()]


def test_controls_are_written_out() -> None:
    assert shown(EVIL) == r"\x1b]0;owned\x07\x9b2J\u202e\udc80\r"
    assert shown("Größe\t1\n日本語 🙂") == "Größe\t1\n日本語 🙂"


def test_errors_are_one_line_without_them() -> None:
    line = one_line(ConfigurationError(f"Found `x = {EVIL}\n`."))
    assert line.isprintable()
    assert r"\x1b]0;owned\x07" in line


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=1)


def _log(text: str) -> None:
    logging.getLogger("lightning.pytorch").warning("Found %s", text)


@pytest.mark.parametrize("say", [_warn, _log])
def test_warnings_and_logs_are_without_them(say: Callable[[str], None], capfd: pytest.CaptureFixture[str]) -> None:
    before = (warnings.formatwarning, logging.getLogRecordFactory())
    handler = logging.StreamHandler()
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(handler)
    try:
        with controls_shown(), warnings.catch_warnings():
            warnings.resetwarnings()
            warnings.showwarning = lambda *args: print(warnings.formatwarning(*args[:4]), file=handler.stream)
            say(EVIL)
    finally:
        logger.removeHandler(handler)
    output = capfd.readouterr().err
    assert r"\x1b]0;owned\x07\x9b2J" in output
    assert not any(control in output for control in CONTROLS)
    assert (warnings.formatwarning, logging.getLogRecordFactory()) == before


def test_colours_of_the_report_on_weights_are_left_out() -> None:
    text = f"\x1b[1mBert\x1b[0m \x1b[38;5;208mMISSING\x1b[0m{EVIL}"
    with controls_shown():
        make = logging.getLogRecordFactory()
        report, other = (
            make(name, logging.WARNING, __file__, 1, "%s", (text,), None).getMessage()
            for name in ("transformers.modeling_utils", "lightning.pytorch")
        )
    assert report.startswith("Bert MISSING")
    assert r"\x1b]0;owned\x07\x9b2J" in report
    assert other.startswith(r"\x1b[1mBert")


def test_a_table_is_without_them(capsys: pytest.CaptureFixture[str]) -> None:

    evaluation_table({f"val/accuracy/{EVIL}": 0.5, "val/accuracy/de": 0.5}, prefix="val/").show(Console(), heading=EVIL)
    output = capsys.readouterr().out
    assert r"\x1b]0;owned\x07" in output
    assert not any(control in output for control in CONTROLS)


def test_nor_does_the_command_line_repeat_them(capsys: pytest.CaptureFixture[str]) -> None:
    export = ["export", f"--ckpt_path={EVIL}", "--output=x"]
    for arguments in (["fit", f"--config={EVIL}"], ["fit", f"--{EVIL}=1"], export):
        with pytest.raises(SystemExit):
            main(arguments)
        assert not any(control in capsys.readouterr().err for control in CONTROLS)


def test_all_that_is_printed_is_shown() -> None:
    for file in (Path(__file__).parents[2] / "lightning_sparsegrad").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("console.print", "get_console().print"):
                assert ast.unparse(node.args[0]).startswith(("shown(", "text", "table")), f"{file}:{node.lineno}"
