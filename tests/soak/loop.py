"""A plain training loop, with stops after which it resumes."""

from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_sparsegrad import ConfigurationError, GradientEngine
from tests.soak.configurations import OPTIMIZERS, Configuration, Overflow, Plan, Stop
from tests.soak.random_state import untouched_random_state


class Interruption(Exception):  # noqa: N818  # no error
    """The exception that is raised inside a window."""


class Watcher(Protocol):
    """The interface of a watcher of windows, about which the loop itself knows nothing."""

    def before(self, loop: "Loop", plan: Plan) -> None:
        """Look at a training before a window."""

    def computed(self, loop: "Loop", plan: Plan) -> None:
        """Look at the gradients before the strategy."""

    def applied(self, loop: "Loop", plan: Plan, *, refused: bool) -> None:
        """Look at the gradients behind the strategy, or behind its refusal to drop all."""

    def stepped(self, loop: "Loop", *, taken: bool) -> None:
        """Look at the weights, after a step or none."""


@dataclass
class Counts:
    """The record of a training."""

    windows: int = 0
    stops: int = 0
    overflows: int = 0
    refusals: int = 0


class Loop:
    """A model in training.

    Args:
        configuration: The training.
        watcher: Who looks on.
    """

    def __init__(self, configuration: Configuration, watcher: Watcher | None = None) -> None:
        self.configuration, self.watcher, self.counts = configuration, watcher, Counts()
        self._build(**configuration.engine)

    def _build(self, **engine: Any) -> None:
        configuration = self.configuration
        self.model = fresh_model(configuration)
        self.optimizer = fresh_optimizer(configuration, self.model)
        self.scaler = fresh_scaler(configuration)
        self.engine = GradientEngine(self.model, configuration.drawn.transform, **engine)
        self.engine.attach(self.optimizer)

    def train(self) -> dict[str, Tensor]:
        """Go through all windows; return the weights."""
        for plan in self.configuration.plans:
            if plan.stop is not None:
                self._stop(plan, plan.stop)
            self._window(plan)
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    def loss_scale(self) -> Tensor | None:
        return self.scaler.scale(torch.ones(())) if self.scaler.is_enabled() else None

    # ------------------------------------------------------------ a window
    def _window(self, plan: Plan) -> None:
        if self.watcher:
            self.watcher.before(self, plan)
        refused = False
        with ExitStack() as window:
            with untouched_random_state():
                window.enter_context(self.engine.window(plan.step, epoch=plan.epoch))
            for seed in plan.batches:
                backward(self.configuration, self.model, self.scaler, seed, plan.divisor)
            put(self.model, plan.overflow)
            if self.watcher:
                self.watcher.computed(self, plan)
            with untouched_random_state():
                try:
                    self.engine.apply_(loss_scale=self.loss_scale())
                except ConfigurationError as error:
                    if "under loss scaling" not in str(error):
                        raise
                    refused = True
            if self.watcher:
                self.watcher.applied(self, plan, refused=refused)
        self.counts.windows += 1
        self.counts.refusals += refused
        self._step(refused=refused)

    def _step(self, *, refused: bool) -> None:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
        self.counts.overflows += not finite
        taken = not refused and (finite or self.scaler.is_enabled())
        if taken:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.watcher:
            self.watcher.stepped(self, taken=taken)
        self.optimizer.zero_grad(set_to_none=self.configuration.set_to_none)

    # ------------------------------------------------------------ a stop
    def _stop(self, plan: Plan, stop: Stop) -> None:
        """Stop between windows, or inside one, whose gradients are then lost."""
        self.counts.stops += 1
        wanted = [parameter.requires_grad for parameter in self.model.parameters()]
        if stop.after is not None:
            with suppress(Interruption), self.engine.window(plan.step, epoch=plan.epoch):
                for seed in plan.batches[: stop.after]:
                    backward(self.configuration, self.model, self.scaler, seed, plan.divisor)
                if stop.how == "abandoned":
                    self.engine.abandon()
                raise Interruption
            self.optimizer.zero_grad(set_to_none=self.configuration.set_to_none)
        assert [parameter.requires_grad for parameter in self.model.parameters()] == wanted, "not all is back"
        if stop.reload:
            self._reload()

    def _reload(self) -> None:
        file = BytesIO()
        objects: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
            "engine": self.engine,
        }
        torch.save({name: each.state_dict() for name, each in objects.items()}, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        self._build(**{**self.configuration.engine, "seed": 10_000})  # the seed of the file wins
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.engine.load_state_dict(state["engine"])
        assert self.engine.seed == self.configuration.engine["seed"]


# ---------------------------------------------------------------- its parts
def fresh_model(configuration: Configuration) -> nn.Module:
    model = configuration.model.build().to(configuration.dtype).train(configuration.dropout)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in configuration.layout.frozen)
    return model


def fresh_optimizer(configuration: Configuration, model: nn.Module) -> torch.optim.Optimizer:
    kind, arguments = OPTIMIZERS[configuration.optimizer]
    if kind is torch.optim.AdamW:
        arguments = {**arguments, "eps": 1e-4}  # 1e-8 is zero in half precision
    return kind(model.parameters(), lr=configuration.rate, weight_decay=0.1, **arguments)


def fresh_scaler(configuration: Configuration) -> torch.amp.GradScaler:
    enabled = configuration.scale is not None
    scale = configuration.scale or 1.0
    return torch.amp.GradScaler("cpu", enabled=enabled, init_scale=scale, growth_interval=configuration.growth)


def backward(
    configuration: Configuration, model: nn.Module, scaler: torch.amp.GradScaler, seed: int, divisor: int
) -> None:
    """Run a micro-batch forth and back."""
    torch.manual_seed(seed)  # of the dropout
    casting: AbstractContextManager[Any] = nullcontext()
    if configuration.autocast is not None:
        casting = torch.autocast("cpu", configuration.autocast)
    with casting:
        loss = configuration.model.loss(model, torch.Generator().manual_seed(seed))
    torch.autograd.backward(scaler.scale(loss / divisor))


def put(model: nn.Module, overflow: Overflow | None) -> None:
    """Put a number into a gradient, if there is one."""
    if overflow is None:
        return
    gradient = model.get_parameter(overflow.parameter).grad
    if gradient is not None and gradient.numel():
        gradient.view(-1)[overflow.entry % gradient.numel()] = overflow.value
