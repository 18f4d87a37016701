"""Checks of arguments that several strategies take."""

from collections import Counter
from collections.abc import Iterable

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.transforms._window import ResampleEvery


def check_every(parameter: str, value: ResampleEvery) -> None:
    """Raise a `ConfigurationError` unless `value` is a positive number of steps, `"epoch"` or `None`."""
    if value is None or value == "epoch" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return
    raise ConfigurationError(
        f"Parameter `{parameter}` should be a positive number of steps, 'epoch' or None. "
        f"Found `{parameter} = {value!r}`."
    )


def check_seed(value: int | None) -> None:
    """Raise a `ConfigurationError` unless `value` is a non-negative integer or `None`."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ConfigurationError(
            f"Parameter `seed` should be a non-negative integer, or None for the seed of the run. "
            f"Found `seed = {value!r}`."
        )


def refuse_equal_draws(seeds: Iterable[tuple[str, int | None]]) -> None:
    """Raise a `ConfigurationError` if two strategies of one class would draw with the same seed."""
    for (kind, seed), count in Counter(seeds).items():
        if count > 1:
            raise ConfigurationError(
                f"Parameter `seed` should differ between the `{kind}` of a chain, which would drop the same entries. "
                f"Found `seed = {seed}` {count} times."
            )
