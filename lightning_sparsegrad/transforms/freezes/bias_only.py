"""Bias-only training: the weight matrices of the pretrained model are frozen."""

from lightning_sparsegrad.components import Layers, NamedParameters, find_layers
from lightning_sparsegrad.components.parameters import plain_class
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.freezes.freeze import Freeze


class BiasOnly(Freeze):
    """Train the biases, the normalization layers and the head alone.

    All other tensors, embeddings included, end without a gradient: they stay as they are, bit for bit. A bias is a
    tensor whose name ends in `bias`; a normalization layer is a module whose class has `norm` in its name; the head is
    that of `HeadOnly`. A tied weight trains if one of its roles does.

    Args:
        layers: One glob per layer, bottom first, for a model whose blocks cannot be found.
        head: Globs of the head, if it is not what is found.

    Raises:
        ConfigurationError: When bound, for a model without a bias or a normalization layer below its head, one whose
            blocks cannot be found, or a pattern without match.

    Note:
        In the paper the normalization layers train their biases alone; here their scales train as well, which are as
        few. `HeadOnly` trains the head without the biases.

    References:
        E. Ben Zaken, S. Ravfogel and Y. Goldberg, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based
        Masked Language-models", 2022, https://arxiv.org/abs/2106.10199, section 3.

    Example:
        >>> import torch
        >>> from lightning_sparsegrad import GradientEngine
        >>> block = torch.nn.TransformerEncoderLayer(4, 1, 8, dropout=0.0, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        >>> engine = GradientEngine(model, BiasOnly())
        >>> with engine.window(step=0):
        ...     model(torch.ones(1, 3, 4)).sum().backward()
        ...     engine.apply_()
        >>> [name for name, p in model.layers[0].named_parameters() if p.grad is None]
        ['self_attn.in_proj_weight', 'self_attn.out_proj.weight', 'linear1.weight', 'linear2.weight']
    """

    def __init__(self, *, layers: list[str] | None = None, head: list[str] | str | None = None) -> None:
        super().__init__()
        if layers is not None and not layers:
            raise ConfigurationError(f"Parameter `layers` should hold a pattern per layer. Found `layers = {layers}`.")
        self.layers, self.head = layers, head
        self._frozen: frozenset[str] = frozenset()

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        super().bind(parameters, total_steps=total_steps)
        layers: Layers = find_layers(parameters, layers=self.layers, head=self.head)
        below_head = layers.within(frozenset(range(layers.count)))
        self._frozen = frozenset(name for name in below_head if not _is_small(name, parameters))
        if not any(parameters[name].requires_grad for name in below_head - self._frozen):
            raise ConfigurationError(
                f"Parameter `model` should have a bias or a normalization layer below its head that trains. "
                f"Found none in `{type(parameters.model).__name__}`."
            )

    def dropped(self, window: Window) -> frozenset[str]:  # noqa: ARG002
        return self._frozen

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name, value in (("layers", self.layers), ("head", self.head)) if value]
        return f"BiasOnly({', '.join(given)})"


def _is_small(name: str, parameters: NamedParameters) -> bool:
    """Return whether a parameter is a bias, or of a normalization layer, in one of its roles."""
    owner = plain_class(parameters.model.get_submodule(parameters.owners[name]))
    return "norm" in owner.__name__.lower() or any(role.endswith("bias") for role in parameters.roles[name])
