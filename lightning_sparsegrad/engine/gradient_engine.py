"""The engine: applies a transform to the whole gradient of a model, exactly once per optimizer step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.engine._deprecated import Deprecated
from lightning_sparsegrad.engine._describing import Describer
from lightning_sparsegrad.engine._nonfinite import NonFinite, NonFinitePolicy
from lightning_sparsegrad.engine._refusals import (
    refuse_capture,
    refuse_hidden,
    refuse_misstated,
    refuse_unusable,
    require_transform,
)
from lightning_sparsegrad.engine._skipping import WorkSkipper
from lightning_sparsegrad.engine._steps import Steps
from lightning_sparsegrad.engine._turns import Turn
from lightning_sparsegrad.engine.description import Description
from lightning_sparsegrad.engine.gradient_meter import GradientMeter
from lightning_sparsegrad.errors import ConfigurationError, require_integer
from lightning_sparsegrad.functional._torch import eagerly
from lightning_sparsegrad.transforms.base import (
    Gradients,
    GradientTransform,
    Window,
    needless,
    refuse_equal_draws,
    run_,
)


class GradientEngine:
    """An engine that applies a transform to a model's gradients, window by window.

    A window is the micro-batches whose gradients accumulate into one optimizer step. It is opened before the first
    forward pass, the transform is applied after the last backward pass, and the optimizer steps after that::

        for step, batch in enumerate(loader):
            with engine.window(step, epoch=epoch):
                loss_fn(model(batch)).backward()
                engine.apply_()
            optimizer.step()
            optimizer.zero_grad()

    Args:
        model: The model whose gradients are changed; names are relative to it.
        transform: The strategy. The engine copies it, so that one object can serve several engines.
        wrapped_model: The model as the loop calls it, if that is a wrapper around `model` for parallel training or
            compilation.
        total_steps: Optimizer steps of the whole training; needed only by schedules over training.
        seed: Seed of the run, for transforms that have none of their own. Non-negative; the same on all ranks.
        skip_dropped: Whether to skip the computation of gradients that will be dropped whole: while a window is open,
            such a tensor does not require a gradient. The weights are the same either way. The first window is computed
            whole, to see what the loss depends on. Where skipping cannot work (under DDP without
            `find_unused_parameters`, within one compiled region), everything is computed, and a warning says so. Use
            `False` if the program reads gradients before `apply_` (`torch.autograd.grad` by parameters, a norm of all
            gradients) or depends on `requires_grad` inside a window, as `nn.TransformerEncoder` does in eval mode.
        nonfinite: What to do in a window with a gradient that is infinite or undefined, in a tensor that is not dropped
            whole. `"propagate"`: nothing, as torch does. `"skip"`: every gradient becomes `None`, so that the optimizer
            changes neither weights nor momenta, and the transform does not see the window. `"raise"`: a
            `FloatingPointError` names the first such tensor and the step, before anything is changed. Both `"skip"` and
            `"raise"` read every gradient, and one number on the host per window; the statistic `nonfinite` counts such
            windows. Under fp16 loss scaling an overflow is a normal event, for which the scaler skips the step and
            lowers the scale: both policies then only count it.

    Attributes:
        transform: The engine's copy of the transform, bound to the model.
        seed: Seed of the run.
        step: Windows attempted so far: those in which the transform was applied, whether or not a step followed.
        parameters: The parameters of the model, by name.
        meter: A `GradientMeter` that measures what the transform does to each component, or `None`.

    Raises:
        ConfigurationError: If the transform cannot work on this model, `total_steps` is missing or not positive, or the
            parameters are sharded otherwise than by rows, as FSDP2 does.

    Example:
        >>> import torch
        >>> from lightning_sparsegrad import GradDrop
        >>> model = torch.nn.Linear(4, 2)
        >>> engine = GradientEngine(model, GradDrop(rate=0.5), seed=0)
        >>> with engine.window(step=0):
        ...     model(torch.ones(1, 4)).sum().backward()
        ...     engine.apply_()
        >>> model.weight.grad
        tensor([[0., 0., 1., 1.],
                [0., 0., 1., 0.]])
    """

    def __init__(
        self,
        model: nn.Module,
        transform: GradientTransform,
        *,
        wrapped_model: nn.Module | None = None,
        total_steps: int | None = None,
        seed: int = 0,
        skip_dropped: bool = True,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        require_transform("`transform`", transform)
        if total_steps is not None:
            require_integer("total_steps", total_steps, least=1)
        called = model if wrapped_model is None else wrapped_model
        for name, module in (("model", model), ("wrapped_model", called)):
            if not isinstance(module, nn.Module):
                raise ConfigurationError(f"Parameter `{name}` should be a module. Found `{type(module).__name__}`.")
        self._set_seed(seed, transform)
        self.parameters = NamedParameters(model)
        refuse_misstated(transform)
        refuse_hidden(self.parameters, transform)
        self.transform = deepcopy(transform)
        self.transform.bind(self.parameters, total_steps=total_steps)
        self._deprecated = Deprecated(transform)
        self._total_steps = total_steps
        self._skipper = WorkSkipper(called, self.parameters) if skip_dropped else None
        self._nonfinite, self._left_out = NonFinitePolicy(nonfinite), False
        self._steps = Steps(self.transform, self.parameters)
        if total_steps is not None:
            self.require_steps_in(total_steps)
        self._turn = Turn(next(iter(self.parameters.tensors.values())))
        self._window: Window | None = None
        self._applied = False
        self.step = 0
        self.meter: GradientMeter | None = None

    @contextmanager
    def window(self, step: int | None = None, *, epoch: int | None = None) -> Iterator[Window]:
        """Open the window of one optimizer step, and check at its end that `apply_` was called.

        Args:
            step: Optimizer steps attempted before, from 0; by default, `engine.step`. Masks depend on it.
            epoch: Epochs done before, from 0; needed only by transforms that depend on it.

        Raises:
            RuntimeError: If a window is open already, or this one ends without `apply_`.
            ConfigurationError: If another engine has opened a window on this model while one of this engine was open.
        """
        opened = self.open(step, epoch=epoch)
        try:
            yield opened
            if not self._applied:
                raise RuntimeError("GradientEngine.apply_() should be called once before a window ends. Found no call.")
        finally:
            self.abandon()

    @eagerly
    def open(self, step: int | None = None, *, epoch: int | None = None) -> Window:
        """Open a window without a `with` block, for loops that consist of hooks; `abandon` closes it.

        Raises:
            RuntimeError: If a window is open already.
            ConfigurationError: If another engine has opened a window on this model while one of this engine was open,
                or a CUDA graph is captured.
        """
        refuse_capture("GradientEngine.open()")
        step = self.step if step is None else step
        if self._window is not None:
            raise RuntimeError(
                f"GradientEngine has a window open already. Found step {self._window.step}, opening {step}."
            )
        require_integer("step", step, least=0)
        if epoch is not None:
            require_integer("epoch", epoch, least=0)
        self._turn.take(self.abandon)
        window = Window(step=step, epoch=epoch, total_steps=self._total_steps, seed=self.seed)
        self._steps.open(self.transform)
        if self._skipper is not None and not self._steps.calibrating(window):
            self._skipper.start(needless(self.transform, window))
        self._window, self._applied = window, False
        return window

    @eagerly
    def abandon(self) -> None:
        """Close the window, if one is open."""
        self._window = None
        self._turn.leave()
        if self._skipper is not None:
            self._skipper.stop()

    @property
    def current(self) -> Window | None:
        """The open window."""
        return self._window

    @property
    def applied(self) -> bool:
        """Whether the transform was applied in the open window, or in the last one if none is open."""
        return self._applied

    @eagerly
    @torch.no_grad()
    def apply_(self, *, loss_scale: Tensor | None = None, unscaled: bool = False) -> None:
        """Apply the transform in place to all gradients of the model; tensors dropped whole end with `grad=None`.

        Args:
            loss_scale: 0-d tensor by which the loss was multiplied and the gradients still are (fp16 training before
                `unscale_`), or `None`. Thresholds are compared with the true gradients.
            unscaled: Whether the loss was scaled and the gradients are unscaled already (fp16 training after
                `unscale_`): one that is not finite is an overflow, for which the scaler skips the step.

        Raises:
            RuntimeError: If no window is open, the transform was already applied in it, a tensor that should train has
                no gradient because work on others was skipped, or the transform keeps a tensor that it stated it would
                drop.
            ConfigurationError: If a gradient is sparse, complex or belongs to a parameter that is new in the model,
                another engine has opened a window on this model, a CUDA graph is captured, or everything was dropped
                before `unscale_`, which needs a gradient.
            FloatingPointError: If a gradient is not finite, with `nonfinite="raise"`.
        """
        if loss_scale is not None and not isinstance(loss_scale, Tensor):
            raise ConfigurationError(
                f"Parameter `loss_scale` should be a 0-d tensor. Found `loss_scale = {loss_scale!r}`."
            )
        if loss_scale is not None and unscaled:
            raise ConfigurationError(
                "Parameter `loss_scale` should be omitted with `unscaled = True`: gradients are in true units then."
            )
        refuse_capture("GradientEngine.apply_()")
        window = self._window_to_apply()
        gradients = self._gather(window, loss_scale, unscaled=unscaled)
        refuse_unusable(gradients, self.parameters)
        meter = self.meter if self.meter is not None and self.meter.is_due(window) else None
        self._left_out = True
        if self._nonfinite.skips(gradients, self.transform, window):
            gradients.lose(list(gradients), by=self)
        elif self._steps.calibrating(window):
            self._steps.calibrate_(gradients, window)
        else:
            self._left_out = False
            self._change_(gradients, window, meter)
        self._steps.applied(gradients, window)
        self._applied, self.step = True, window.step + 1
        self._clear_dropped(gradients, window)

    def _window_to_apply(self) -> Window:
        """Return the open window, in which the transform has not been applied yet."""
        self._turn.check()
        if self._window is None:
            raise RuntimeError("GradientEngine.apply_() should be called inside a window. Found none open.")
        if self._applied:
            raise RuntimeError(
                f"GradientEngine.apply_() should be called once. Found two calls at step {self._window.step}."
            )
        return self._window

    def _gather(self, window: Window, loss_scale: Tensor | None, *, unscaled: bool) -> Gradients:
        """Return the gradients of the window, without those that were not computed."""
        tensors = self.parameters.tensors
        gradients = {name: gradient for name, tensor in tensors.items() if (gradient := tensor.grad) is not None}
        skipped = self._skipper.finish(gradients, window.step) if self._skipper is not None else {}
        for name in skipped:  # any gradient here dates from before the window: zeros from `zero_grad`
            tensors[name].grad = None
            gradients.pop(name, None)
        return Gradients(
            gradients,
            loss_scale=loss_scale,
            unscaled=unscaled,
            skipped=skipped,
            weights=tensors,
            deprecated=self._deprecated.drops,
        )

    def _change_(self, gradients: Gradients, window: Window, meter: GradientMeter | None) -> None:
        """Run the transform, between two measurements of a meter that is due."""
        if meter is not None:
            meter.before(gradients, window)
        run_(self.transform, gradients, window)
        self._deprecated.warn()
        if meter is not None:
            meter.after(gradients)
        if gradients.skipped:
            raise RuntimeError(
                f"`{self.transform!r}` should drop what it stated before the forward pass. Found "
                f"`{min(gradients.skipped)}` at step {window.step}, which was not computed and is not dropped."
            )

    def _clear_dropped(self, gradients: Gradients, window: Window) -> None:
        """Remove the gradients of dropped tensors."""
        for name in gradients.dropped:
            self.parameters.tensors[name].grad = None
        if gradients.dropped and not gradients and gradients.loss_scale is not None:
            raise ConfigurationError(
                f"`{self.transform!r}` should keep a gradient under loss scaling, or the scaler finds none to check. "
                f"Found all dropped at step {window.step}."
            )

    def require_steps_in(self, total_steps: int) -> None:
        """Raise a `ConfigurationError` if the strategy calibrates throughout a training of so many steps."""
        self._steps.require_steps_behind(Window(total_steps - 1))

    @property
    def acts_on_steps(self) -> bool:
        """Whether a strategy learns from steps or acts on updates, so that optimizers have to be attached."""
        return self._steps.need_optimizer

    def attach(self, *optimizers: Optimizer) -> None:
        """Follow the steps of optimizers; needed only by strategies that learn from steps or act on updates.

        Of a wrapper, as Accelerate and Fabric return, the optimizer inside is followed. A deep copy of an optimizer
        loses its hooks: attach it as well. Only the first step after each window counts.
        """
        for optimizer in optimizers:
            self._steps.follow(optimizer)

    @torch.no_grad()
    def before_step_(self, optimizer: Optimizer) -> None:
        """Run the strategies of the update phase: after `apply_` and any unscaling, before an optimizer steps.

        A loop that steps with a closure has to call this at the end of the closure; otherwise the step itself does.
        """
        self._steps.before_(optimizer)

    def compute_everything(self, why: str) -> None:
        """Skip no work from now on; one warning gives the reason when a window could have skipped some."""
        if self._skipper is not None:
            self._skipper.obstacle = why

    def describe(self, steps: int | None = None, *, steps_per_epoch: int | None = None) -> Description:
        """Return what the strategy will do to the model, which may be on the meta device; outside of windows.

        Args:
            steps: Optimizer steps of the training; by default `total_steps`, else 1,000.
            steps_per_epoch: Those of an epoch; needed only by strategies that follow epochs.

        Raises:
            RuntimeError: If a window is open.
            ConfigurationError: If a number is not positive, or `steps_per_epoch` is missing.
        """
        if self._window is not None:
            raise RuntimeError(f"No window should be open where an engine describes. Found step {self._window.step}.")
        make = partial(Window, total_steps=self._total_steps, seed=self.seed)
        describer = Describer(self.transform, self.parameters, self._skipper, self._steps)
        return describer.describe(make, self._total_steps if steps is None else steps, steps_per_epoch)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Statistics of the last window by name, as 0-d tensors that are computed on access.

        With a policy other than `"propagate"`, `nonfinite` counts the windows so far whose gradients were not finite.
        """
        return {**({} if self._left_out else self.transform.statistics), **self._nonfinite.statistics}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resumed run, as plain numbers, names and tensors."""
        skipping = {} if self._skipper is None else {"skipping": self._skipper.state_dict()}
        counts = {"step": self.step, "nonfinite": self._nonfinite.count}
        return {"seed": self.seed, "transform": self.transform.state_dict(), **counts, **skipping}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned: the seed and step of the run, and the state of the transform if present.

        Raises:
            ConfigurationError: If the state holds no seed.
        """
        if "seed" not in state:
            raise ConfigurationError(f"Parameter `state` should hold a `seed`. Found keys {sorted(state)}.")
        self._set_seed(state["seed"], self.transform)
        if "transform" in state:
            self.transform.load_state_dict(state["transform"])
        self.step, self._nonfinite.count = int(state.get("step", 0)), int(state.get("nonfinite", 0))
        if self._skipper is not None:
            self._skipper.load_state_dict(state.get("skipping", {}))

    def _set_seed(self, seed: int, transform: GradientTransform) -> None:
        require_integer("seed", seed, least=0)
        refuse_equal_draws((kind, seed if own is None else own) for kind, own in transform.seeds)
        self.seed = seed
