"""AGC: the gradient of each unit is clipped to a share of the norm of its weights."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isinf

import torch
from torch import Tensor

from lightning_sparsegrad.components import NamedParameters, find_layers, output_dim
from lightning_sparsegrad.errors import ConfigurationError, require_number
from lightning_sparsegrad.functional import clip_units_
from lightning_sparsegrad.schedules import Schedule, as_threshold
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Window


class AdaptiveGradientClip(GradientTransform):
    r"""Clip the gradient of each unit to a share of the norm of its weights (adaptive gradient clipping, AGC).

    .. math:: \tilde g_u = g_u \cdot \frac{\tau_u}{\lVert g_u \rVert} \quad \text{if } \lVert g_u \rVert \ge \tau_u =
        \text{clipping} \cdot \max(\lVert W_u \rVert, \text{eps})

    for every unit :math:`u`: the weights of one output of a matrix or a convolution, which are a row of it; one word of
    an embedding; a bias or the gain of a norm as a whole. Norms are in true gradient units, also under fp16 loss
    scaling, and accumulated in float32 or wider. An infinite or undefined entry becomes NaN, so that a gradient scaler
    sees it; the finite entries of a unit whose norm is infinite become zero.

    Args:
        clipping: Largest norm of a gradient as a share of that of its weights, positive; infinity clips nothing; or a
            schedule. The authors use 0.01 with batches of 4096 images, and larger ones with smaller batches.
        eps: Lower bound on the norm of weights, positive, so that units whose weights are zero can train.
        exclude_head: Whether to leave the head unclipped: everything after the last block and its norm, including a
            weight that is tied to the embeddings.

    Raises:
        ConfigurationError: At construction, for an argument outside its range; when bound with `exclude_head`, for a
            model without layers.

    Note:
        As in the authors' code, biases and gains are clipped and the head is not. Deviations: clipping happens once per
        optimizer step, on the accumulated gradient; a unit of the (in, out) weights of transformers' `Conv1D` is a
        column. Each part of a fused projection has its own units in any case.

    References:
        A. Brock, S. De, S. L. Smith and K. Simonyan, "High-Performance Large-Scale Image Recognition Without
        Normalization", 2021, https://arxiv.org/abs/2102.06171, equation 3.

    Example:
        >>> import torch
        >>> from lightning_sparsegrad import GradientEngine
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> model.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[3., 4.],
                [0., 0.]])
        >>> engine = GradientEngine(model, AdaptiveGradientClip(clipping=0.1, eps=0.5, exclude_head=False))
        >>> with engine.window(step=0):
        ...     model(torch.tensor([[3.0, 4.0]])).sum().backward()
        ...     engine.apply_()
        >>> model.weight.grad
        tensor([[0.3000, 0.4000],
                [0.0300, 0.0400]])
    """

    bounds = frozenset({"norm"})
    on_shards = True

    def __init__(self, clipping: float | Schedule = 0.01, *, eps: float = 1e-3, exclude_head: bool = True) -> None:
        self.clipping = as_threshold("clipping", clipping)
        self.eps = require_number("eps", eps, lambda eps: 0 < eps < inf, "positive and finite")
        if not isinstance(exclude_head, bool):
            raise ConfigurationError(
                f"Parameter `exclude_head` should be True or False. Found `exclude_head = {exclude_head!r}`."
            )
        self.exclude_head = exclude_head
        self._dims: dict[str, int] = {}
        self._factors: dict[str, Tensor] = {}

    @property
    def schedules(self) -> Sequence[Schedule]:
        return (self.clipping,)

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.require_total_steps(total_steps)
        names: Iterable[str] = parameters
        if self.exclude_head:
            below = _below_the_head(parameters)
            names = [name for name in parameters if name in below]
        self._dims = {name: output_dim(name, parameters) for name in names}

    def reads_together(self) -> Iterable[frozenset[str]]:
        return ()

    def apply_(self, gradients: Gradients, window: Window) -> None:
        clipping, names = self.clipping(window.progress), [name for name in self._dims if name in gradients]
        self._factors = {}
        if names and not isinf(clipping):
            factors = clip_units_(
                [gradients[name] for name in names],
                [gradients.weights[name] for name in names],
                clipping,
                dims=[self._dims[name] for name in names],
                eps=self.eps,
                loss_scale=gradients.loss_scale,
            )
            self._factors = dict(zip(names, factors, strict=True))

    def settings(self, window: Window) -> Mapping[str, Mapping[str, float]]:
        return {"clipping": dict.fromkeys(self._dims, self.clipping(window.progress))}

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return self._factors

    @property
    def statistics(self) -> dict[str, Tensor]:
        """`clipped`: the share of units beyond their bounds."""
        if not self._factors:
            return {"clipped": torch.zeros(())}
        first, *_ = factors = list(self._factors.values())
        clipped = ~(torch.cat([unit_factors.to(first) for unit_factors in factors]) >= 1)  # an undefined norm counts
        return {"clipped": clipped.float().mean()}

    def __repr__(self) -> str:
        return f"AdaptiveGradientClip(clipping={self.clipping!r})"


def _below_the_head(parameters: NamedParameters) -> frozenset[str]:
    """Return the parameters that have no role in the head."""
    try:
        layers = find_layers(parameters)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"Parameter `exclude_head` should be False for a model whose blocks, and so its head, cannot be found. "
            f"Found `exclude_head = True` for a `{type(parameters.model).__name__}`."
        ) from error
    return layers.within(frozenset(range(layers.count)))
