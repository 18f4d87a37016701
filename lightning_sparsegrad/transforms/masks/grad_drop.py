"""GradDrop: stochastic masks on gradients."""

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, Literal, get_args

from torch import Tensor

from lightning_sparsegrad.components import ComponentSpec, NamedParameters, check_components, find_layers
from lightning_sparsegrad.errors import ConfigurationError, require_one_of
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.base import Gradients, ResampleEvery, Window
from lightning_sparsegrad.transforms.masks._entries import EntryMask
from lightning_sparsegrad.transforms.masks._units import UnitMask
from lightning_sparsegrad.transforms.masks.mask import Mask

Granularity = Literal["element", "row", "tensor", "component"]


class GradDrop(Mask):
    r"""Drop entries, rows, tensors or components of the gradient at random, each with probability `rate`.

    .. math:: \tilde g_i = m_i \, g_i, \qquad m_i \sim \mathrm{Bernoulli}(1 - p)

    with the same :math:`m` for all entries of a unit: an entry, a row, a tensor or a component. Units are drawn
    independently, and again in every window by default. With `rescale`,
    :math:`\tilde g_i = m_i \, g_i / (1 - p)`, whose expectation is :math:`g_i`.

    Entries and rows are multiplied by zero: the zeros reach the optimizer, so momentum and weight decay still move
    these weights. Tensors and components that are dropped whole, also by a rate of 1, end without a gradient: their
    weights stay as they are, bit for bit.

    Args:
        rate: Expected fraction of dropped units, in [0, 1], resolved to multiples of 2^-32; or a schedule.
        resample_every: Number of optimizer steps for which a mask is kept; `"epoch"` for one mask per epoch
            (GradDrop-Epoch); `None` for one mask throughout.
        granularity: The unit. A row is a slice along dim 0; in a 1-D tensor, one entry.
        components: What a component is, with `granularity="component"` only; see `partition`. The default there is
            `"projection"`.
        rescale: Divide the kept entries by `1 - rate`.
        include: Globs of the parameters to mask; all by default.
        exclude: Globs of the parameters to leave unmasked.
        seed: Seed of the masks; `None` means the seed of the run.
        fused: Whether masks on entries go through a compiled kernel, which gives the same bits several times faster.
            `True`: from the first window on, which on a CPU waits for the compiler: 10 to 20 seconds the first time on
            a machine, a few seconds when the kernel is in the compiler's cache. `False`: never. `None`: on a GPU from
            the first window on; on a CPU once the run has masked 2^35 entries, when the kernel starts to pay for its
            compilation: after about 1,500 steps with 23 million parameters, 60 with 560 million. The other
            granularities need no kernel: they cost next to nothing.

    Raises:
        ConfigurationError: At construction, for an argument outside its range; when bound, for a pattern without match.

    Note:
        Implemented from the abstract of the paper: its exact formula, rates and rescaling could not be verified, so
        each is a parameter and no default is the paper's. This is not the GradDrop of Chen et al., "Just Pick a Sign:
        Optimizing Deep Multitask Models with Gradient Sign Dropout", 2020, https://arxiv.org/abs/2010.06808, which
        drops gradients of several losses by sign.

    References:
        J. O'Neill and S. Dutta, "Gradient Sparsification For Masked Fine-Tuning of Transformers", 2023,
        https://arxiv.org/abs/2307.10098, abstract.

    Example:
        >>> import torch
        >>> from lightning_sparsegrad import GradientEngine
        >>> model = torch.nn.Linear(1000, 10, bias=False)
        >>> engine = GradientEngine(model, GradDrop(rate=0.3), seed=1)
        >>> with engine.window(step=0):
        ...     model(torch.ones(1, 1000)).sum().backward()
        ...     engine.apply_()
        >>> round(float((model.weight.grad == 0).float().mean()), 1)
        0.3
    """

    on_shards = True

    def __init__(
        self,
        rate: float | Schedule,
        *,
        resample_every: ResampleEvery = 1,
        granularity: Granularity = "element",
        components: ComponentSpec | None = None,
        rescale: bool = False,
        include: list[str] | str | None = None,
        exclude: list[str] | str | None = None,
        seed: int | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__(rate, resample_every=resample_every, seed=seed)
        require_one_of("granularity", granularity, get_args(Granularity))
        if components is not None:
            check_components(components)
            if granularity != "component":
                raise ConfigurationError(
                    f"Parameter `components` should be given with `granularity = 'component'` only. "
                    f"Found `granularity = {granularity!r}`."
                )
        if rescale and self.rate.bounds()[1] == 1:
            raise ConfigurationError(
                f"Parameter `rate` should stay below 1 with `rescale`: nothing is left to rescale. "
                f"Found `rate = {rate}`."
            )
        if fused is not None and not isinstance(fused, bool):
            raise ConfigurationError(f"Parameter `fused` should be True, False or None. Found `fused = {fused!r}`.")
        if fused and granularity != "element":
            raise ConfigurationError(
                f"Parameter `fused` should be True with `granularity = 'element'` only. "
                f"Found `granularity = {granularity!r}`."
            )
        self.granularity, self.components, self.rescale, self.fused = granularity, components, rescale, fused
        self.include, self.exclude = include, exclude
        self._heights: dict[str, float] = {}
        self._mask: EntryMask | UnitMask
        if granularity in {"element", "row"}:
            self._mask = EntryMask(by_row=granularity == "row", rescale=rescale, fused=fused)
        else:
            self._mask = UnitMask("tensor" if granularity == "tensor" else components or "projection", rescale=rescale)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle; until 0.3 also one of 0.1, which holds the arguments and no mask."""
        if "_mask" not in state:
            GradDrop.__init__(self, **{name: state[name] for name in signature(GradDrop).parameters})
        vars(self).update(state)

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.require_total_steps(total_steps)
        names = parameters.filtered(self.include, self.exclude)
        layers = find_layers(parameters) if self.rate.needs_height else None
        self._heights = {name: layers.height(name) if layers else 1.0 for name in names}
        self._mask.bind(parameters, names)

    def dropped(self, window: Window) -> frozenset[str]:
        return self._mask.dropped(self._rates(window), self.key(window))

    def reads_together(self) -> Iterable[frozenset[str]]:
        return ()

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return {}

    def apply_(self, gradients: Gradients, window: Window) -> None:
        gradients.lose(window.dropped_by(self), by=self)  # a no-op, unless another strategy calls this one
        self._mask.apply_(gradients, self._rates(window), self.key(window), gradients.lost_by(self))

    def _rates(self, window: Window) -> dict[str, float]:
        progress = window.progress
        return {name: self.rate(progress, height) for name, height in self._heights.items()}

    def settings(self, window: Window) -> Mapping[str, Mapping[str, float]]:
        return {"rate": self._mask.rates(self._rates(window))}

    @property
    def statistics(self) -> dict[str, Tensor]:
        """`kept`: the share of maskable entries that are kept."""
        return {"kept": self._mask.kept}

    def __repr__(self) -> str:
        return f"GradDrop(rate={self.rate!r})"
