"""Turns: one engine at a time has a window open on the parameters of a model."""

from collections.abc import Callable
from typing import Any, ClassVar
from weakref import WeakMethod, WeakValueDictionary

from torch import Tensor

from lightning_sparsegrad.errors import ConfigurationError


class Turn:
    """The turn of an engine, which another engine on the same model ends.

    A window that an interrupted training has left open is closed by the next engine. An engine that goes on with a
    window which was closed in this way works beside the other one, and is refused.

    Args:
        parameter: A parameter by which the model is known, whatever wraps it.
    """

    _open: ClassVar[WeakValueDictionary[int, "Turn"]] = WeakValueDictionary()  # by the id of the parameter

    def __init__(self, parameter: Tensor) -> None:
        self._parameter = parameter
        self._close: WeakMethod[Callable[[], None]] | None = None
        self._is_lost = False

    def take(self, close: Callable[[], None]) -> None:
        """Begin a turn, and end that of any other engine.

        Args:
            close: The method of the engine that closes its window.

        Raises:
            ConfigurationError: If another engine has ended the last turn.
        """
        self.check()
        other = self._open.get(id(self._parameter))
        if other is not None and other is not self:
            other._end()
        self._close = WeakMethod(close)
        self._open[id(self._parameter)] = self

    def leave(self) -> None:
        """End the turn."""
        if self._open.get(id(self._parameter)) is self:
            del self._open[id(self._parameter)]

    def check(self) -> None:
        """Raise a `ConfigurationError` if another engine has ended the turn."""
        if self._is_lost:
            raise ConfigurationError(
                "Gradients of a model should be transformed by one engine; use `Chain` for several strategies. "
                "Found a second engine, which has opened a window on this model while one of the first was open."
            )

    def _end(self) -> None:
        self._is_lost = True
        if self._close is not None and (close := self._close()) is not None:
            close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_close": None}
