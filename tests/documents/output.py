"""Whether a program writes what a document shows."""

import re
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker

_MEASURED = re.compile(r"-?\d+\.\d+(e[+-]?\d+)?|\d+:\d\d:\d\d")


def same(shown: str, written: str) -> None:
    """Compare what is shown with what is written: `...` is any text, and blanks and decimals may differ.

    A decimal is an accuracy or a time, which is a fact about a machine.
    """
    want, got = (_MEASURED.sub("#", text) for text in (shown, written))
    assert OutputChecker().check_output(want, got, ELLIPSIS | NORMALIZE_WHITESPACE), f"{shown}\n--- not ---\n{written}"
