"""Refusals of, and warnings about, Trainers of transformers that defeat a transform."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.transforms.base import GradientTransform
from lightning_sparsegrad.transforms.identity import Identity

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

_OWN_LOSSES = ("transformers.", "trl.")  # their `compute_loss` records metrics, around that of `Trainer`


def refuse_arguments(args: TrainingArguments, transform: GradientTransform, *, is_early: bool) -> None:
    """Raise a `ConfigurationError` for arguments of a Trainer that defeat a transform.

    Args:
        args: The arguments of the Trainer.
        transform: The strategy.
        is_early: Whether the transform comes before the Trainer's own clip.
    """
    hides = not is_early and any(member.before_clips for member in transform.flattened())
    if _clips(args) and (transform.bounds or hides):
        why = "one clip would change what the other bounds" if transform.bounds else "it hides large norms"
        raise ConfigurationError(
            f"Parameter `max_grad_norm` of `TrainingArguments`, by default 1.0, should be 0 with `{transform!r}`: "
            f"{why}. Found `max_grad_norm = {args.max_grad_norm}`."
        )
    kind = getattr(getattr(args, "distributed_state", None), "distributed_type", "")
    if args.deepspeed or getattr(kind, "value", kind) == "DEEPSPEED":
        raise ConfigurationError(
            "Parameter `deepspeed` of `TrainingArguments` should be omitted with a gradient transform: DeepSpeed keeps "
            "gradients in buffers of its own. FSDP2 does what it does, and leaves each parameter its gradient."
        )
    optim = str(getattr(args.optim, "value", args.optim))
    if "layerwise" in optim or "lomo" in optim:
        raise ConfigurationError(
            f"Parameter `optim` of `TrainingArguments` should name an optimizer that steps after the backward pass. "
            f"Found `optim = {optim!r}`, which updates weights within it, before any transform."
        )


def refuse_meshes(parameters: Iterable[nn.Parameter], *, scales: bool) -> None:
    """Refuse loss scaling of parameters on several device meshes, whose gradients the Trainer does not unscale."""
    meshes = {getattr(parameter, "device_mesh", None) for parameter in parameters if parameter.requires_grad}
    if scales and len(meshes) > 1:
        raise ConfigurationError(
            f"Parameter `fp16` of `TrainingArguments` should be False for parameters on several device meshes: the "
            f"Trainer does not unscale their gradients. Found {len(meshes)}; `bf16` needs no scale."
        )


def warn_of_early_clip(args: TrainingArguments, transform: GradientTransform) -> None:
    """Warn that the clip of a Trainer, which is on by default, comes before a transform."""
    acts = (member for member in transform.flattened() if not isinstance(member, Identity))
    if _clips(args) and any("gradient" in member.phases for member in acts):
        warnings.warn(
            f"`max_grad_norm = {args.max_grad_norm}` of `TrainingArguments`, by default 1.0, clips the whole gradient "
            f"before `{transform!r}` acts. 0 turns it off; with `TransformersMixin` the transform comes first.",
            stacklevel=3,
        )


def warn_of_unchecked_averaging(args: TrainingArguments, model: nn.Module, warn: Callable[[str], None]) -> None:
    """Warn that losses may be summed over micro-batches or processes, see `AveragingCheck`."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]  # of PEFT
    takes_any = any(each.kind is Parameter.VAR_KEYWORD for each in signature(inner.forward).parameters.values())
    if _count_summed(args) > 1 and takes_any and getattr(inner, "loss_type", None) != "ForCausalLM":
        warn(
            f"Whether the Trainer averages the losses of `{type(inner).__name__}` over micro-batches and processes is "
            f"not checked: `TransformersCallback.attach(trainer)` does so. It sums those of many models."
        )


def _clips(args: TrainingArguments) -> bool:
    return bool(args.max_grad_norm) and args.max_grad_norm < inf


def _count_summed(args: TrainingArguments) -> int:
    """Return the number of losses that are summed if the model does not divide them by the items of all."""
    return args.gradient_accumulation_steps * (args.world_size if args.average_tokens_across_devices else 1)


class AveragingCheck:
    """A check, once per training, that the Trainer averages the losses of micro-batches and processes.

    The Trainer takes a loss for one that is divided by `num_items_in_batch`, the items of the whole window, if the
    model takes keyword arguments; it then does not divide it by the number of micro-batches. Many heads ignore that
    argument: their gradients are summed. See https://github.com/huggingface/transformers/issues/47688 (open).

    Args:
        trainer: The Trainer, at the start of training.
        transform: The strategy.
        warn: Called with a warning.
    """

    def __init__(self, trainer: Trainer, transform: GradientTransform, warn: Callable[[str], None]) -> None:
        self._trainer, self._transform, self._warn = trainer, transform, warn
        args = trainer.args
        self._summed = _count_summed(args)
        takes_items = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
        self._is_due = self._summed > 1 and takes_items and trainer.loss_is_scaled_for_ga is None and args.n_gpu <= 1

    def check(self, inputs: dict[str, Any], items: Any) -> None:
        """Compute the loss of a micro-batch for two numbers of items, without gradients, if that was not done yet.

        Args:
            inputs: The micro-batch.
            items: Number of items in the window, `None` if the Trainer does not count them.

        Raises:
            ConfigurationError: If the two are equal, and a strategy has thresholds in true units.
        """
        if not self._is_due or (items is None and self._trainer.compute_loss_func is None):
            return
        try:
            losses = [self._loss(inputs, None if items is None else items * factor) for factor in (1, 2)]
        except Exception as error:  # a loss of somebody's own may fail in any way, and training may not
            self._is_due = False
            self._warn(f"Whether losses of micro-batches are averaged could not be checked: {error!r}.")
            return
        if not losses[0].isfinite() or not losses[0]:
            return  # nothing shows: the next micro-batch may
        self._is_due = False
        if not torch.equal(*losses):
            return
        is_own = self._trainer.compute_loss_func is not None
        mend = "have `compute_loss_func` divide it" if is_own else "set `trainer.model_accepts_loss_kwargs = False`"
        message = (
            f"The loss of `{type(self._trainer.model).__name__}` should be divided by `num_items_in_batch`, as the "
            f"Trainer assumes; if it is not, {mend}. Found a loss that ignores it, so that gradients are "
            f"{self._summed} times those of the mean over micro-batches and processes."
        )
        if self._transform.bounds:
            raise ConfigurationError(f"{message} The thresholds of `{self._transform!r}` would mean something else.")
        self._warn(message)

    def _loss(self, inputs: dict[str, Any], items: Any) -> torch.Tensor:
        trainer = self._trainer
        model: nn.Module = trainer.model  # type: ignore[assignment]  # a training has one
        owner = next(cls for cls in type(trainer).__mro__ if "compute_loss" in vars(cls))
        if owner.__module__.startswith(_OWN_LOSSES):
            owner = next(cls for cls in reversed(type(trainer).__mro__) if "compute_loss" in vars(cls))
        modes = {module: module.training for module in model.modules()}
        devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
        try:
            model.eval()  # no dropout, and no statistics that a forward pass changes
            with torch.random.fork_rng(devices), torch.no_grad(), trainer.compute_loss_context_manager():
                loss = vars(owner)["compute_loss"](trainer, model, dict(inputs), num_items_in_batch=items)
                return torch.as_tensor(loss).float().mean()
        finally:
            for module, mode in modes.items():
                module.training = mode
