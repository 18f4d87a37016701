"""Functions and classes that no config may call, since no parameter expects their type."""

from pathlib import Path
from typing import Any

called: list[str] = []


def function(*args: Any, **kwargs: Any) -> None:
    called.append("function")


class Thing:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        called.append("class")


class CallableThing:
    def __init__(self, command: str = "") -> None:
        called.append("callable class")

    def __call__(self, *args: Any) -> None:
        called.append("call")


def make(command: str = "") -> Any:
    called.append("function without a type")


def makes_a_path(command: str = "") -> Path:
    called.append("function of another type")
    return Path(command)


thing = function
