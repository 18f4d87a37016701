"""Bias-only training: the weight matrices of the pretrained model are frozen."""

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.components.parameters import plain_class
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.freezes.layer_mask import LayerMask


class BiasOnly(LayerMask):
    """Train the biases, the normalization layers and the head alone.

    All other tensors, embeddings included, end without a gradient: they stay as they are, bit for bit. A bias is a
    tensor whose name ends in `bias`; a normalization layer is a module whose class has `norm` in its name; the head is
    that of `HeadOnly`. A tied weight trains if one of its roles does.

    Args:
        layers: One glob per layer, bottom first, for a model whose blocks cannot be found.
        head: Globs of the head, if it is not detected correctly.

    Raises:
        ConfigurationError: When bound, for a model without a bias or a normalization layer below its head, one whose
            blocks cannot be found, or a pattern without match.

    Note:
        In the paper only the biases of normalization layers train; here their scales, which are as few, train as well.
        `HeadOnly` trains the head without the biases.

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
        super().__init__(layers=layers, head=head)
        self._small: frozenset[str] = frozenset()

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        super().bind(parameters, total_steps=total_steps)
        self._small = frozenset(name for name in parameters if _is_small(name, parameters))
        below_head = self.depths.within(frozenset(range(self.depths.count)))
        if not any(parameters[name].requires_grad for name in below_head & self._small):
            raise ConfigurationError(
                f"Parameter `model` should have a bias or a normalization layer below its head that trains. "
                f"Found none in `{type(parameters.model).__name__}`."
            )

    @property
    def acting_head(self) -> None:
        """No layer: the biases train in all of them."""

    def check_without_head(self) -> None:
        """Accept a model without a head: the parameters that train below it are checked by `bind`."""

    def dropped_depths(self, window: Window) -> frozenset[int]:  # noqa: ARG002
        return frozenset(range(self.depths.count))

    def dropped(self, window: Window) -> frozenset[str]:
        return super().dropped(window) - self._small

    def __repr__(self) -> str:
        return f"BiasOnly({', '.join(self._patterns())})"


def _is_small(name: str, parameters: NamedParameters) -> bool:
    """Return whether a parameter is a bias or belongs to a normalization layer in one of its roles."""
    owner = plain_class(parameters.model.get_submodule(parameters.owners[name]))
    return "norm" in owner.__name__.lower() or any(role.endswith("bias") for role in parameters.roles[name])
