"""The base class of masks that stay: what lies outside is frozen, bit for bit."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.errors import ConfigurationError, near_matches
from lightning_sparsegrad.functional import (
    keep_entries_,
    keep_rows_,
    pack_bits,
    restore_entries_,
    restore_rows_,
    shard_of,
    unpack_bits,
)
from lightning_sparsegrad.transforms.base import Gradients, GradientTransform, Phase, Window, share


class FixedMask(GradientTransform):
    r"""Base class of strategies that train some rows or entries of a tensor, and freeze the others of it.

    .. math:: \tilde g = m \odot g, \qquad \theta_{t+1} = m \odot \theta'_{t+1} + (1 - m) \odot \theta_t

    with a mask :math:`m` of zeros and ones, and the weights :math:`\theta'_{t+1}` after the optimizer's step. A frozen
    entry has no gradient, so that norms and clips do not see it, and is restored after the step from a copy made before
    it: neither momentum nor weight decay moves it. A tensor of which nothing trains is dropped whole; one of which
    everything trains keeps its gradient, bit for bit.

    The copies take as much memory as the tensors that train in part: during the step on an accelerator, throughout on a
    CPU. The optimizer keeps the state of whole tensors.

    A subclass states its mask by `hold_`.
    """

    on_shards = True
    phases: frozenset[Phase] = frozenset({"gradient", "update"})

    def __init__(self) -> None:
        self._parameters: NamedParameters | None = None
        self._packed: dict[str, tuple[Tensor, tuple[int, ...]]] = {}  # on the CPU: the bits, and the shape of the mask
        self._trained: dict[str, int] = {}  # entries
        self._partial: dict[str, Tensor] = {}  # of the rows of this process: indices of rows, or a boolean mask
        self._before: dict[str, Tensor] = {}  # the step that is going on
        self._buffers: dict[str, Tensor] = {}  # on a CPU, where new memory costs more than a copy

    @abstractmethod
    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        self.require_total_steps(total_steps)
        self._parameters = parameters
        self.release_()

    @property
    def parameters(self) -> NamedParameters:
        """The parameters of the model; raises a `RuntimeError` before the strategy is bound."""
        if self._parameters is None:
            raise RuntimeError(f"`{type(self).__name__}` should be bound to a model first, as GradientEngine does.")
        return self._parameters

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The mask of each tensor that is held, by name, on the CPU: of its shape, or of its number of rows."""
        return {name: unpack_bits(packed, shape) for name, (packed, shape) in self._packed.items()}

    # ------------------------------------------------------------ what a subclass calls
    def hold_(self, name: str, mask: Tensor) -> None:
        """Freeze the entries of a parameter that are outside a mask, from the next window on.

        Args:
            name: The first name of the parameter.
            mask: Boolean tensor of the shape of the whole parameter, or of its number of rows: `True` for what trains.

        Raises:
            ConfigurationError: If there is no such parameter, the mask has another shape or dtype, or the parameter
                belongs to an embedding with `max_norm`.
        """
        if name not in self.parameters:
            raise ConfigurationError(
                f"A mask should be of a parameter, by its first name. Found `{name}`."
                f"{near_matches(name, self.parameters)}"
            )
        weight = self.parameters[name]
        if mask.dtype != torch.bool:
            raise ConfigurationError(f"The mask of `{name}` should be of torch.bool. Found {mask.dtype}.")
        if mask.shape not in {weight.shape, weight.shape[:1]}:
            raise ConfigurationError(
                f"The mask of `{name}` should be of shape {tuple(weight.shape)}, or of shape {tuple(weight.shape[:1])} "
                f"for rows. Found shape {tuple(mask.shape)}."
            )
        self.parameters.refuse_moving(self, [name])
        mask = mask.cpu()
        self._packed[name] = pack_bits(mask), tuple(mask.shape)
        count = int(mask.sum())
        self._trained[name] = count * (weight.numel() // max(mask.numel(), 1))
        self._partial.pop(name, None)
        if 0 < count < mask.numel():
            shard = shard_of(weight.detach())
            if weight.ndim:
                mask = mask[shard.first_row : shard.first_row + shard.local.shape[0]]
            by_row = mask.ndim < weight.ndim
            self._partial[name] = (mask.nonzero().flatten() if by_row else mask.contiguous()).to(shard.local.device)

    def release_(self) -> None:
        """Freeze nothing any more."""
        for each in (self._packed, self._trained, self._partial, self._before, self._buffers):
            each.clear()

    def _where(self, name: str, device: torch.device) -> Tensor:
        """Return what trains of the rows of this process, on a device."""
        where = self._partial[name]
        if where.device != device:  # the model has moved
            where = self._partial[name] = where.to(device)
        return where

    # ------------------------------------------------------------ a window
    def dropped(self, window: Window) -> frozenset[str]:  # noqa: ARG002
        return frozenset(name for name, count in self._trained.items() if not count)

    def reads_together(self) -> Iterable[frozenset[str]]:
        return ()

    @property
    def factors(self) -> Mapping[str, Tensor]:
        return {}

    def require_mask(self, gradients: Gradients, window: Window) -> None:
        """Raise a `ConfigurationError` if there is no mask to apply to the gradients of a window."""

    def apply_(self, gradients: Gradients, window: Window) -> None:
        self.require_mask(gradients, window)
        gradients.lose(window.dropped_by(self), by=self)  # a no-op, unless another strategy calls this one
        for name in self._partial.keys() & gradients.keys():
            local = shard_of(gradients[name]).local
            where = self._where(name, local.device)
            (keep_entries_ if where.dtype == torch.bool else keep_rows_)(local, where)

    def before_step_(self, weights: Mapping[str, Tensor], window: Window) -> None:  # noqa: ARG002
        for name in self._partial.keys() & weights.keys():
            self._before.pop(name, None)  # of a step that a scaler left out
            if weights[name].grad is not None:
                self._before[name] = self._copy(name, shard_of(weights[name]).local)

    def _copy(self, name: str, local: Tensor) -> Tensor:
        if not local.is_cpu:
            return local.clone()
        buffer = self._buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (local.shape, local.dtype):
            buffer = self._buffers[name] = torch.empty_like(local)
        return buffer.copy_(local)

    def after_step_(self, weights: Mapping[str, Tensor], window: Window, happened: Tensor) -> None:  # noqa: ARG002
        for name in self._before.keys() & weights.keys():
            local, before = shard_of(weights[name]).local, self._before.pop(name)
            where = self._where(name, local.device)
            (restore_entries_ if where.dtype == torch.bool else restore_rows_)(local, before, where)

    def settings(self, window: Window) -> Mapping[str, float | Mapping[str, float]]:  # noqa: ARG002
        shares = {name: count / max(self.parameters[name].numel(), 1) for name, count in self._trained.items()}
        return {"density": shares}

    @property
    def statistics(self) -> dict[str, Tensor]:
        """`kept`: the share of entries that train, of the tensors that are held."""
        total = sum(self.parameters[name].numel() for name in self._trained)
        return {"kept": share(sum(self._trained.values()), total)}

    @property
    def held_bytes(self) -> int:
        weights = [(self.parameters[name], where) for name, where in self._partial.items()]
        return sum(_bytes_of(shard_of(weight.detach()).local) + _bytes_of(where) for weight, where in weights)


def _bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
