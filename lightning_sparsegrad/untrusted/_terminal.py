"""Safe output of text of any origin to a terminal, with control characters written out."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# control characters except line feed and tab, surrogates, and marks that change the direction of text
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def shown(text: object) -> str:
    r"""Return a text with its control characters written out in Python's notation.

    Args:
        text: Any object; line feeds and tabs are kept.

    Example:
        >>> shown("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def slow_down_bars(seconds: int = 60) -> None:
    """Let the tqdm bars of downloads and tokenization write to a log once a minute instead of ten times a second.

    Call it before tqdm is imported. It also applies to child processes. The user's own setting is kept.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        for name in ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL"):
            os.environ.setdefault(name, str(seconds))


@contextmanager
def controls_shown() -> Iterator[None]:
    """Write out control characters in warnings and log records, which contain names of files and columns."""
    format_warning, make_record = warnings.formatwarning, logging.getLogRecordFactory()

    def format_shown(*args: Any, **kwargs: Any) -> str:
        return shown(format_warning(*args, **kwargs))

    def make_shown(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        text = record.getMessage()
        if _CONTROLS.search(text):
            if record.name.startswith("transformers."):  # transformers colours its reports
                text = _COLOURS.sub("", text)
            record.msg, record.args = shown(text), ()
        return record

    warnings.formatwarning = format_shown
    logging.setLogRecordFactory(make_shown)
    try:
        yield
    finally:
        warnings.formatwarning = format_warning
        logging.setLogRecordFactory(make_record)
