"""Many cases in one item: each is a subtest, reported by its name."""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import Parameter, signature
from itertools import product
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet  # what `pytest.param` returns has no public name

Axis = list[tuple[str, dict[str, Any]]]  # label and arguments of each case


def cases(names: str | Sequence[str], values: Iterable[Any], *, ids: Any = None) -> Callable[..., Any]:
    """Do as `pytest.mark.parametrize` does, in one item: several of these give every combination.

    A case begins with the random state of the first one, and has a `tmp_path` and a `monkeypatch` of its own. Other
    fixtures are made once for all cases.
    """
    axis = _axis(names.replace(",", " ").split() if isinstance(names, str) else names, list(values), ids)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        body, axes = getattr(test, "over_cases", (test, []))
        return _over(body, [axis, *axes])

    return decorate


def _axis(names: Sequence[str], values: list[Any], ids: Any) -> Axis:
    assert values, f"there is no case of {', '.join(names)}"
    labels = [str(value) for value in values] if ids is None else map(ids, values) if callable(ids) else ids
    axis = []
    for value, label in zip(values, labels, strict=True):
        row: Any = (value,) if len(names) == 1 else value
        if isinstance(value, ParameterSet):
            assert not value.marks, "cases of one item have no marks"
            row, label = value.values, value.id
        axis.append((str(label), dict(zip(names, row, strict=True))))
    return axis


def _over(body: Callable[..., None], axes: list[Axis]) -> Callable[..., None]:
    @wraps(body)
    def test(subtests: pytest.Subtests, **fixtures: Any) -> None:
        folder = fixtures.get("tmp_path")
        for number, combination in enumerate(product(*axes)):
            if folder is not None:
                fixtures["tmp_path"] = folder / f"case{number}"
                fixtures["tmp_path"].mkdir()
            arguments = {name: value for _, case in combination for name, value in case.items()}
            label = ", ".join(label for label, _ in combination)
            with subtests.test(label), torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
                if "monkeypatch" in fixtures:
                    fixtures["monkeypatch"] = patch
                body(**fixtures, **arguments)

    given = {name for axis in axes for name in axis[0][1]}
    fixtures = [each for name, each in signature(body).parameters.items() if name not in given]
    test.__signature__ = signature(test).replace(  # type: ignore[attr-defined]
        parameters=[Parameter("subtests", Parameter.POSITIONAL_OR_KEYWORD), *fixtures]
    )
    test.over_cases = body, axes  # type: ignore[attr-defined]
    return test


class Laws:
    """Assertions for every case of a table, as functions of a case: one item per case checks all of them."""

    def __init__(self) -> None:
        self._laws: list[Callable[..., None]] = []

    def __call__(self, law: Callable[..., None]) -> Callable[..., None]:
        self._laws.append(law)
        return law

    def check(self, subtests: pytest.Subtests, *arguments: Any) -> None:
        for law in self._laws:
            with subtests.test(law.__name__):
                law(*arguments)
