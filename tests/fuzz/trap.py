"""What no config may have called: of the wrong kind, wherever it is named."""

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


thing = function
