"""Freezes of whole layers."""

from abc import abstractmethod
from collections.abc import Sequence

from lightning_sparsegrad.components import Layers, NamedParameters, find_layers
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.freezes.freeze import Freeze


class LayerMask(Freeze):
    """Base class of strategies that drop layers: the embeddings and the blocks. The head always trains.

    A subclass chooses them in `dropped_depths`. In a model in which nothing trains behind the last block (no head, a
    frozen one, a language model with adapters in its blocks), the topmost layer in which something trains can take the
    role of the head: see `below` and `acting_head`.

    Args:
        layers: One glob per layer, bottom first, for a model whose blocks cannot be found; parameters that none of them
            matches are the head.
        head: Globs of the head, if it is not everything after the last block and its norm.
    """

    def __init__(self, *, layers: list[str] | None = None, head: list[str] | str | None = None) -> None:
        super().__init__()
        if layers is not None and not layers:
            raise ConfigurationError(f"Parameter `layers` should hold a pattern per layer. Found `layers = {layers}`.")
        self.layers, self.head = layers, head
        self._layers: Layers | None = None
        self._trainable: frozenset[str] = frozenset()

    @property
    def depths(self) -> Layers:
        """The layers of the model; raises a `RuntimeError` before the transform is bound."""
        if self._layers is None:
            raise RuntimeError(f"`{type(self).__name__}` should be bound to a model first, as GradientEngine does.")
        return self._layers

    @property
    def top(self) -> int:
        """The topmost depth in which something trains: that of the head, or of the layer that takes its role."""
        return self.depths.training[-1]

    @property
    def below(self) -> tuple[int, ...]:
        """The other depths in which something trains, bottom first."""
        return self.depths.training[:-1]

    @property
    def acting_head(self) -> str | None:
        """The name of the layer that takes the role of the head; `None` where the head trains or none is needed."""
        return None if self.top == self.depths.count else self.depths.names[self.top]

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        super().bind(parameters, total_steps=total_steps)
        self._layers = find_layers(parameters, layers=self.layers, head=self.head)
        self._trainable = frozenset(name for name in parameters if parameters[name].requires_grad)
        if not self._trainable:
            raise ConfigurationError(
                f"Parameter `model` should have a parameter that trains. Found `requires_grad = False` on all of "
                f"`{type(parameters.model).__name__}`."
            )
        if self.top < self._layers.count:
            self.check_without_head()

    def trains_without(self, dropped: frozenset[int]) -> bool:
        """Return whether anything trains while the layers at the given depths do not."""
        return not self._trainable <= self.depths.within(dropped)

    def check_without_head(self) -> None:
        """Raise a `ConfigurationError` if a head was asked for; called for a model without one that trains."""
        if self.head is not None:
            raise ConfigurationError(
                f"Parameter `head` should match parameters that train while `{type(self).__name__}` freezes the "
                f"layers. Found `head = {self.head}`, and nothing that trains among what it matches."
            )

    @abstractmethod
    def dropped_depths(self, window: Window) -> frozenset[int]:
        """Return the depths whose gradients are dropped in a window; known before its forward pass."""

    def dropped(self, window: Window) -> frozenset[str]:
        return self.depths.within(self.dropped_depths(window))

    def _patterns(self) -> Sequence[str]:
        return [f"{name}={value!r}" for name, value in (("layers", self.layers), ("head", self.head)) if value]
