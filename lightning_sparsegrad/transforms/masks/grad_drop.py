"""GradDrop: stochastic masks on gradients."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_sparsegrad.components import (
    ComponentSpec,
    NamedParameters,
    Part,
    check_components,
    find_layers,
    partition,
)
from lightning_sparsegrad.errors import ConfigurationError, require_one_of
from lightning_sparsegrad.functional import count_kept, derive_key, keep_threshold, mask_entries_, mask_rows_
from lightning_sparsegrad.schedules import Schedule, as_rate
from lightning_sparsegrad.transforms.base import (
    Gradients,
    GradientTransform,
    ResampleEvery,
    Window,
    check_every,
    check_seed,
)
from lightning_sparsegrad.transforms.masks._draws import draw_dropped, draw_key

Granularity = Literal["element", "row", "tensor", "component"]
_WORTH_COMPILING = 1 << 35  # entries whose eager masks have cost about as much time as compiling the kernel


class GradDrop(GradientTransform):
    r"""Drop entries, rows, tensors or components of the gradient at random, each with probability `rate`.

    .. math:: \tilde g_i = m_i \, g_i, \qquad m_i \sim \mathrm{Bernoulli}(1 - p)

    with the same :math:`m` for all entries of a unit: an entry, a row, a tensor or a component. Units are drawn
    independently, in every window anew by default. With `rescale`,
    :math:`\tilde g_i = m_i \, g_i / (1 - p)`, whose expectation is :math:`g_i`.

    Entries and rows are dropped by multiplying with zero: zeros enter the optimizer, so momentum and weight decay still
    move these weights. Tensors and components that are dropped whole, also by a rate of 1, end without a gradient:
    their weights stay as they are, bit for bit.

    Args:
        rate: Expected fraction of dropped units, in [0, 1], resolved to multiples of 2^-32; or a schedule.
        resample_every: Number of optimizer steps a mask is kept for; `"epoch"` for one mask per epoch (GradDrop-Epoch);
            `None` for one mask for good.
        granularity: The unit. A row is a slice along dim 0; of a 1-D tensor, one entry.
        components: What a component is, with `granularity="component"` only; see `partition`. The default there is
            `"projection"`.
        rescale: Divide what is kept by `1 - rate`.
        include: Globs of the parameters to mask; all by default.
        exclude: Globs of the parameters to leave alone.
        seed: Seed of the masks; `None` means the seed of the run.
        fused: Whether masks on entries go through a compiled kernel, which gives the same bits several times faster.
            `True`: from the first window on, which waits for the compiler, 10 to 20 seconds the first time on a machine
            and a few whenever the compiler's cache has it. `False`: never. `None`: once the run has masked 2^35
            entries, when the kernel pays for its compilation: after about 1,500 steps of a model of 23 million
            parameters, 60 of one of 560 million. The other granularities need no kernel: they cost next to nothing.

    Raises:
        ConfigurationError: At construction, for an argument outside its range; when bound, for a pattern without match.

    Note:
        Written after the abstract of the paper: its exact formula, rates and rescaling could not be verified, so each
        is a parameter and no default is the paper's. It is not the GradDrop of Chen et al., "Just Pick a Sign:
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

    handles_shards = True

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
        self.rate = as_rate("rate", rate)
        check_every("resample_every", resample_every)
        check_seed(seed)
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
        self.resample_every, self.granularity, self.components = resample_every, granularity, components
        self.rescale, self.include, self.exclude, self.seed = rescale, include, exclude, seed
        self.fused = fused
        self._masked = 0  # entries so far
        self._pieces: dict[str, list[tuple[str, Part]]] = {}
        self._heights: dict[str, float] = {}
        self._trainable: frozenset[str] = frozenset()
        self._last: _Draws | None = None

    @property
    def schedules(self) -> Sequence[Schedule]:
        return (self.rate,)

    @property
    def seeds(self) -> Sequence[tuple[str, int | None]]:
        return ((type(self).__name__, self.seed),)

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.require_total_steps(total_steps)
        names = parameters.filtered(self.include, self.exclude)
        layers = find_layers(parameters) if self.rate.needs_height else None
        self._heights = {name: layers.height(name) if layers else 1.0 for name in names}
        self._trainable = frozenset(name for name in parameters if parameters[name].requires_grad)
        if self.granularity in {"tensor", "component"}:
            spec = "tensor" if self.granularity == "tensor" else self.components or "projection"
            self._pieces = {name: [] for name in names}
            for component in partition(parameters, spec):
                for part in component.parts:
                    if part.parameter in self._pieces:
                        self._pieces[part.parameter].append((component.name, part))

    def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
        if self._pieces:
            return later | self._whole(self._draw_units(window)[1])
        return later | frozenset(self._with_rate_one(self._rates(window)))

    def apply_(self, gradients: Gradients, window: Window) -> None:
        rates = {
            name: rate for name, rate in self._rates(window).items() if name in gradients or name in gradients.skipped
        }
        if not any(rates.values()):
            self._last = None
            return
        device = next((gradient.device for gradient in gradients.values()), torch.device("cpu"))
        self._last = _Draws(device, total=sum(gradients[name].numel() for name in rates if name in gradients))
        if self._pieces:
            self._drop_units_(gradients, window)
        else:
            self._drop_entries_(gradients, rates, window)

    def _drop_entries_(self, gradients: Gradients, rates: dict[str, float], window: Window) -> None:
        """Drop entries or rows; what has a rate of 1 is dropped whole."""
        assert self._last is not None  # noqa: S101  # set by `apply_`
        self._drop_whole(gradients, self._with_rate_one(rates))
        names = [name for name in rates if name in gradients]
        tensors, key = [gradients[name] for name in names], self._key(window)
        keys = [derive_key(*key, name) for name in names]
        by_row = self.granularity == "row"
        drawn = [rates[name] for name in names]
        if by_row:
            mask_rows_(tensors, keys, drawn, rescale=self.rescale)
        else:
            fused = self._masked >= _WORTH_COMPILING if self.fused is None else self.fused
            mask_entries_(tensors, keys, drawn, rescale=self.rescale, fused=fused)
            self._masked += sum(tensor.numel() for tensor in tensors)
        for name, tensor, entry_key in zip(names, tensors, keys, strict=True):
            count = (tensor.shape[0] if tensor.ndim else 1) if by_row else tensor.numel()
            self._last.masks.append((count, tensor.numel() // max(count, 1), entry_key, rates[name]))

    def _drop_units_(self, gradients: Gradients, window: Window) -> None:
        """Drop tensors or components: a tensor of which nothing is left whole, slices by multiplying with zero."""
        assert self._last is not None  # noqa: S101  # set by `apply_`
        rates, dropped = self._draw_units(window)
        self._drop_whole(gradients, self._whole(dropped))
        for name, pieces in self._pieces.items():
            for component, part in pieces if name in gradients else ():
                rate, is_dropped = rates[component], component in dropped
                self._last.kept += 0 if is_dropped else part.numel(gradients[name])
                if is_dropped or (self.rescale and rate > 0):
                    for piece in part.held(gradients[name]):
                        piece.mul_(0 if is_dropped else 1 / (1 - rate))

    def _drop_whole(self, gradients: Gradients, names: Collection[str]) -> None:
        assert self._last is not None  # noqa: S101  # set by `apply_`
        self._last.total += sum(gradients.skipped.get(name, 0) for name in names)
        gradients.drop(names)

    def _rates(self, window: Window) -> dict[str, float]:
        return {name: self.rate(window.progress, height) for name, height in self._heights.items()}

    @staticmethod
    def _with_rate_one(rates: Mapping[str, float]) -> list[str]:
        return [name for name, rate in rates.items() if keep_threshold(rate) == keep_threshold(1)]

    def _draw_units(self, window: Window) -> tuple[dict[str, float], frozenset[str]]:
        """Return the rate of every unit, and the units that are dropped."""
        each = self._rates(window)
        rates: dict[str, float] = {}
        for name, pieces in self._pieces.items():
            rates.update({component: min(each[name], rates.get(component, 1.0)) for component, _ in pieces})
        return rates, draw_dropped(rates, self._key(window), self._trains)

    def _whole(self, dropped: frozenset[str]) -> frozenset[str]:
        return frozenset(
            name for name, pieces in self._pieces.items() if all(component in dropped for component, _ in pieces)
        )

    def _trains(self, dropped: frozenset[str]) -> bool:
        return not self._trainable <= self._whole(dropped)

    def _key(self, window: Window) -> tuple[str | int, ...]:
        return draw_key(type(self).__name__, self.seed, self.resample_every, window)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """`kept`: the share of entries kept, of those it may drop."""
        return {"kept": self._last.share_kept() if self._last else torch.ones(())}

    def __repr__(self) -> str:
        return f"GradDrop(rate={self.rate!r})"


@dataclass
class _Draws:
    """What one window drew: enough to count, when someone asks, what was kept."""

    device: torch.device
    total: int
    kept: int = 0
    masks: list[tuple[int, int, int, float]] = field(default_factory=list)  # (units, entries of each, key, rate)

    def share_kept(self) -> Tensor:
        kept = torch.tensor(float(self.kept), dtype=torch.float64, device=self.device)
        for units, size, key, rate in self.masks:
            kept += size * count_kept(units, key, rate, self.device)
        return (kept / self.total).float() if self.total else torch.ones((), device=self.device)
