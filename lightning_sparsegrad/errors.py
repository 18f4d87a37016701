"""The error that every check of the library raises, and helpers for its messages."""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import wraps
from importlib.metadata import version
from math import isnan, nan
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

MAX_SEED = 2**32 - 1  # of numpy, which `seed_everything` seeds as well


class ConfigurationError(ValueError):
    """A parameter, a file or a combination of settings that cannot work.

    Raised as early as possible: at construction, when a model is bound, or at the start of a fit. The message names the
    parameter, its value and what is allowed.
    """


def near_matches(name: str, allowed: Iterable[str]) -> str:
    """Return a sentence that lists the names in `allowed` closest to `name`, or an empty string."""
    close = get_close_matches(name, list(allowed), n=3, cutoff=0.5)
    return f" Near matches: {', '.join(f'`{match}`' for match in close)}." if close else ""


def require_one_of(parameter: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a `ConfigurationError` with near matches unless a value is one of those allowed."""
    if value not in allowed:
        raise ConfigurationError(
            f"Parameter `{parameter}` should be one of {', '.join(map(repr, allowed))}. "
            f"Found `{parameter} = {value!r}`.{near_matches(str(value), map(str, allowed))}"
        )


def require_integer(parameter: str, value: object, *, least: int, most: int | None = None) -> None:
    """Raise a `ConfigurationError` unless a value is an integer in a range.

    Args:
        parameter: Name of the parameter.
        value: Its value.
        least: The smallest number allowed, at least 0.
        most: The largest number allowed; `None` for any.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        kinds = {0: "a non-negative integer", 1: "a positive integer"}
        allowed = kinds.get(least, f"an integer of at least {least}")
        allowed = allowed if most is None else f"an integer from {least} to {most}"
        raise ConfigurationError(f"Parameter `{parameter}` should be {allowed}. Found `{parameter} = {value!r}`.")


def require_number(parameter: str, value: object, within: Callable[[float], bool], allowed: str) -> float:
    """Return a number as a float; raise a `ConfigurationError` unless it is in a range.

    Args:
        parameter: Name of the parameter.
        value: Its value.
        within: Whether a number is in the range; not asked about NaN.
        allowed: The range, for the message: what the parameter should be.
    """
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else nan
    except OverflowError:  # an integer beyond all floats
        number = nan
    if isnan(number) or not within(number):
        raise ConfigurationError(f"Parameter `{parameter}` should be {allowed}. Found `{parameter} = {value!r}`.")
    return number


def reason_of(error: BaseException, *, most: int = 300) -> str:
    """Return the message of another library's error on one line, with its class if the message alone is unclear.

    Args:
        error: The error.
        most: The largest number of characters to keep.
    """
    lines = str(error).splitlines() or [""]
    line = " ".join(" ".join(lines[:1] if not lines[0].endswith(":") else lines).split())
    if not line or isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError | AssertionError):
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return line if len(line) <= most else f"{line[:most]}..."


def needs_private_names(library: str, purpose: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make a function that uses private names of a library name the installed version if they are missing.

    Args:
        library: Name of the library's distribution.
        purpose: What the function does, for the message.

    Returns:
        A decorator. The function raises a `ConfigurationError` if a module, class or attribute is missing whose name
        begins with an underscore, or that the function imports.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            try:
                return function(*args, **kwargs)
            except (ImportError, AttributeError) as error:
                if isinstance(error, AttributeError) and not str(error.name).startswith("_"):
                    raise
                raise ConfigurationError(
                    f"Library `{library}` should have a version that is known to work for {purpose}. "
                    f"Found `{library} {version(library)}`: {reason_of(error)}."
                ) from error

        return checked

    return decorate
