"""Head-only training: the baseline that freezes the pretrained model."""

from lightning_sparsegrad.transforms.base import Window
from lightning_sparsegrad.transforms.freezes.layer_mask import LayerMask


class HeadOnly(LayerMask):
    r"""Train the head alone: linear probing, where the head is linear.

    .. math:: \tilde g_l = 0

    for every layer :math:`l` below the head. The layers end without a gradient: their weights stay as they are, bit for
    bit. The head is everything after the last block and its norm, including a pretrained pooler; `head` narrows it.
    Where nothing of it trains, as in a language model with adapters in its blocks, the topmost layer in which something
    trains takes its role and trains alone.

    Args:
        layers: One glob per layer, bottom first, for a model whose blocks cannot be found.
        head: Globs of the head, if it is not detected correctly.

    Raises:
        ConfigurationError: When bound, for a model without layers or in which nothing trains, a pattern without match,
            or a `head` in which nothing trains.

    References:
        The baseline of J. O'Neill and S. Dutta, "Gradient Sparsification For Masked Fine-Tuning of Transformers", 2023,
        https://arxiv.org/abs/2307.10098, abstract.

    Example:
        >>> HeadOnly(head="classifier.*")
        HeadOnly(head='classifier.*')
    """

    def dropped_depths(self, window: Window) -> frozenset[int]:  # noqa: ARG002
        return frozenset(range(self.top))

    def __repr__(self) -> str:
        return f"HeadOnly({', '.join(self._patterns())})"
