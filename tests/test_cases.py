"""The cases of one item: each runs, whatever the others do, and leaves nothing to the next."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cases import Laws, cases

DRAWN: list[float] = []


class Failed(list[str]):
    """The failures of subtests."""

    @contextmanager
    def test(self, name: str) -> Iterator[None]:
        try:
            yield
        except AssertionError:
            self.append(name)


def test_every_combination_runs_and_each_that_fails_is_named() -> None:
    seen, failed = [], Failed()

    @cases("first", iter("ab"))
    @cases(("second", "third"), [(1, 2), pytest.param(3, 4, id="more")])
    def check(first: str, second: int, third: int) -> None:
        seen.append((first, second, third))
        assert first == "a" or second == 1

    check(subtests=failed)
    assert seen == [("a", 1, 2), ("a", 3, 4), ("b", 1, 2), ("b", 3, 4)]
    assert failed == ["b, more"]
    check(subtests=failed)
    assert len(seen) == 8


def test_every_law_is_checked() -> None:
    laws, failed = Laws(), Failed()

    @laws
    def is_even(number: int) -> None:
        assert number % 2 == 0

    @laws
    def is_positive(number: int) -> None:
        assert number > 0

    any_subtests: Any = failed
    for number in (2, -2, -1):
        laws.check(any_subtests, number)
    assert failed == ["is_positive", "is_even", "is_positive"]


def test_what_has_no_case_or_a_mark_is_refused() -> None:
    with pytest.raises(AssertionError, match="there is no case of x"):
        cases("x", iter([]))
    with pytest.raises(AssertionError, match="no marks"):
        cases("x", [pytest.param(1, marks=pytest.mark.long)])


@cases("number", [1, 2])
def test_a_case_leaves_nothing_to_the_next(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DRAWN.append(torch.rand(()).item())
    assert DRAWN[:1] * number == DRAWN
    assert not any(tmp_path.iterdir())
    (tmp_path / "left").touch()
    assert "SPARSEGRAD_CASE" not in os.environ
    monkeypatch.setenv("SPARSEGRAD_CASE", "1")


def test_what_is_long_is_left_out_unless_markers_are_asked_for(request: pytest.FixtureRequest) -> None:
    long = [item.nodeid for item in request.session.items if item.get_closest_marker("long")]
    assert request.config.option.markexpr or long == []
