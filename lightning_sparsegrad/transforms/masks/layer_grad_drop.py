"""LayerGradDrop: stochastic masks on whole layers."""

from collections.abc import Mapping
from math import prod

from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.base import ResampleEvery, Window
from lightning_sparsegrad.transforms.freezes.layer_mask import LayerMask
from lightning_sparsegrad.transforms.masks.mask import Mask, draw_dropped


class LayerGradDrop(Mask, LayerMask):
    r"""Drop the gradient of whole layers, each independently with probability `rate`.

    .. math:: \tilde g_l = m_l \, g_l, \qquad m_l \sim \mathrm{Bernoulli}(1 - p)

    for the embeddings and each block :math:`l`. The head always trains. A final norm belongs to the last block; encoder
    blocks come before decoder blocks; a tied weight is dropped only if all its roles are. A dropped layer ends without
    a gradient: its weights stay as they are, bit for bit. Where nothing trains behind the last block, as in a model
    without a head or a language model with adapters in its blocks, a draw that would drop everything that trains is
    repeated; if every layer in which something trains has rate 1, the topmost of them is kept.

    Args:
        rate: Probability that a layer is dropped, in [0, 1]; or a schedule, which may depend on depth.
        resample_every: Number of optimizer steps for which a draw is kept; `"epoch"`, or `None` for one draw
            throughout.
        layers: One glob per layer, bottom first, for a model whose blocks cannot be found.
        head: Globs of the head, if it is not detected correctly.
        seed: Seed of the draws; `None` means the seed of the run.

    Raises:
        ConfigurationError: At construction, for an argument outside its range; when bound, for a model without layers
            or in which nothing trains, or if the rate reaches 1 and nothing trains in what `head` matches.

    Note:
        Implemented from the abstract of the paper, which names variants of GradDrop without defining them; the rate is
        not the paper's.

    References:
        A variant of J. O'Neill and S. Dutta, "Gradient Sparsification For Masked Fine-Tuning of Transformers", 2023,
        https://arxiv.org/abs/2307.10098, abstract.

    Example:
        >>> LayerGradDrop(rate=0.5, resample_every="epoch")
        LayerGradDrop(rate=0.5)
    """

    def __init__(
        self,
        rate: float | Schedule,
        *,
        resample_every: ResampleEvery = 1,
        layers: list[str] | None = None,
        head: list[str] | str | None = None,
        seed: int | None = None,
    ) -> None:
        Mask.__init__(self, rate, resample_every=resample_every, seed=seed)
        LayerMask.__init__(self, layers=layers, head=head)

    @property
    def acting_head(self) -> None:
        """No layer: the topmost is dropped with its rate too."""

    def check_without_head(self) -> None:
        """Refuse a rate of 1 if a head was asked for and nothing trains in it."""
        if self.rate.bounds()[1] == 1:
            super().check_without_head()

    def dropped_depths(self, window: Window) -> frozenset[int]:
        layers = self.depths
        depths = {layers.names[depth]: depth for depth in range(layers.count)}

        def trains(names: frozenset[str]) -> bool:
            return self.trains_without(frozenset(depths[name] for name in names))

        dropped = draw_dropped(self._rates(window), self.key(window), trains, kept=layers.names[self.top])
        return frozenset(depths[name] for name in dropped)

    def settings(self, window: Window) -> Mapping[str, Mapping[str, float]]:
        rates = [*self._rates(window).values(), *([0.0] if self.depths.has_head else [])]
        return {"rate": {name: prod(rates[depth] for depth in roles) for name, roles in self.depths.depths.items()}}

    def _rates(self, window: Window) -> dict[str, float]:
        layers = self.depths
        height = max(len(layers.names) - 1, 1)
        rates = {layers.names[depth]: self.rate(window.progress, depth / height) for depth in range(layers.count)}
        if not self.trains_without(frozenset(depth for depth, rate in enumerate(rates.values()) if rate == 1)):
            rates[layers.names[self.top]] = 0.0  # nothing would train
        return rates

    def __repr__(self) -> str:
        return f"LayerGradDrop({', '.join([f'rate={self.rate!r}', *self._patterns()])})"
