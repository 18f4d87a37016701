"""`FabricAdapter`: a strategy in a training loop that is written with Lightning Fabric."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional._torch import inside_wrapper
from lightning_sparsegrad.loops._explicit_adapter import ExplicitAdapter, optimizers_in, unprepared
from lightning_sparsegrad.loops._lightning_fabric import forward_module

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.fabric import Fabric

    from lightning_sparsegrad.engine._nonfinite import NonFinite
    from lightning_sparsegrad.transforms.base import GradientTransform

# strategies that keep gradients elsewhere than at the parameters, or reduce them inside the step
_HIDDEN = ("DeepSpeedStrategy", "FSDPStrategy", "XLAFSDPStrategy", "XLAStrategy")


class FabricAdapter(ExplicitAdapter):
    """An adapter that applies a strategy to the gradients of a loop written with Lightning Fabric.

    It takes what `fabric.setup` returned. `window` opens around the micro-batches of an optimizer step, one by one or
    all at once, and `apply_` is called after the last backward pass, in place of `fabric.clip_gradients`. The weights
    are those of a plain loop around `GradientEngine`, bit for bit. Under `precision="16-mixed"` thresholds are compared
    with the true gradients, which stay scaled: fused optimizers work, and `fabric.clip_gradients` may follow `apply_`.

    Args:
        fabric: The `lightning.fabric.Fabric`.
        model: The model as `fabric.setup` returned it and as the loop calls it, compiled or not.
        optimizer: The optimizer, or several, as `fabric.setup` returned them; one alone under `"16-mixed"`.
        transform: The strategy.
        total_steps: Optimizer steps of the whole training; needed only by schedules over training.
        seed: Seed of the run, for strategies that have none of their own. The same on all processes.
        skip_dropped: Whether to skip the computation of gradients that will be dropped, see `GradientEngine`. With
            several processes this needs `DDPStrategy(find_unused_parameters=True)`.
        nonfinite: What to do with gradients that are not finite, see `GradientEngine`.

    Raises:
        ConfigurationError: If Fabric has not set up the model or an optimizer, an optimizer needs a closure or holds no
            parameter of the model, the strategy of Fabric is DeepSpeed, FSDP1 or XLA, there is more than one optimizer
            under `"16-mixed"`, or the strategy cannot work on the model.

    Example:
        >>> import torch
        >>> from lightning.fabric import Fabric
        >>> from lightning_sparsegrad import FabricAdapter, GradDrop
        >>> fabric = Fabric(accelerator="cpu", devices=1)
        >>> model = torch.nn.Linear(4, 2)
        >>> model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> adapter = FabricAdapter(fabric, model, optimizer, GradDrop(rate=0.5))
        >>> state = {"model": model, "optimizer": optimizer, "gradient_transform": adapter}  # for `fabric.save`
        >>> for index, batch in enumerate(torch.ones(4, 1, 4)):
        ...     is_accumulating = index % 2 == 0
        ...     with adapter.window(epoch=0), fabric.no_backward_sync(model, enabled=is_accumulating):
        ...         fabric.backward(model(batch).square().mean() / 2)
        ...     if not is_accumulating:
        ...         adapter.apply_()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> adapter.engine.step
        2
        >>> adapter.statistics["kept"]
        tensor(0.4000)
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        transform: GradientTransform,
        *,
        total_steps: int | None = None,
        seed: int = 0,
        skip_dropped: bool = True,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        from lightning.fabric import Fabric as Kind
        from lightning.fabric import is_wrapped

        if not isinstance(fabric, Kind):
            kind = type(fabric)
            raise ConfigurationError(
                f"Parameter `fabric` should be a `lightning.fabric.Fabric`. "
                f"Found a `{kind.__module__}.{kind.__qualname__}`."
            )
        if hidden := {cls.__name__ for cls in type(fabric.strategy).__mro__}.intersection(_HIDDEN):
            raise ConfigurationError(
                f"Parameter `strategy` of Fabric should leave each parameter its gradient, whole as 'ddp' does or "
                f"sharded by rows as `ModelParallelStrategy` (FSDP2) does. Found `{min(hidden)}`."
            )
        if not isinstance(model, nn.Module) or not is_wrapped(model):
            raise unprepared("model", model, "fabric.setup")
        inner = []
        for each in optimizers_in(optimizer):
            if not isinstance(each, Optimizer) or not is_wrapped(each):
                raise unprepared("optimizer", each, "fabric.setup")
            inner.append(inside_wrapper(each))
        self._fabric = fabric
        super().__init__(
            cast("nn.Module", model.module),
            inner,
            transform,
            wrapped_model=forward_module(model),
            scaler=getattr(fabric.strategy.precision, "scaler", None),
            total_steps=total_steps,
            seed=seed,
            skip_dropped=skip_dropped,
            nonfinite=nonfinite,
        )

    @override
    def _apply_(self) -> None:
        scale = None if self._scaler is None else self._scaler.scale(torch.ones((), device=self._fabric.device))
        self._engine.apply_(loss_scale=scale)

    @property
    @override
    def _is_first_process(self) -> bool:
        return self._fabric.is_global_zero
