"""Skipping of needless work: the gradient of a tensor that will be dropped whole is not computed.

While a window is open, such a tensor does not require a gradient, so that autograd skips its weight gradient and ends
the backward pass above the lowest tensor that trains. The weights are the same as if everything had been computed.
"""

import warnings
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_sparsegrad.components import NamedParameters, without_split
from lightning_sparsegrad.functional._torch import is_compiled, uncompiled, version_of
from lightning_sparsegrad.functional.sharding import is_spread


class WorkSkipper:
    """A switch that turns `requires_grad` of tensors off for a window, where that saves time and changes nothing else.

    Where it would change the result, the gradients are computed and dropped, and one warning says why. The first window
    is always computed whole, to see what the loss depends on.

    Args:
        model: The model as it is called in training, its wrappers included.
        parameters: Its parameters.

    Attributes:
        obstacle: Why nothing may be skipped, or `None`.
    """

    _skipped: frozenset[str] = frozenset()

    def __init__(self, model: nn.Module, parameters: NamedParameters) -> None:
        self._parameters = parameters
        self._witness = _Witness(parameters)
        self._holds: list[RemovableHandle] = []
        self.obstacle = _obstacle(model)
        self._regions = _compiled_regions(model, parameters)
        self._adapters = _adapters(parameters)
        self._kept: frozenset[str] = frozenset()  # the parameters that train in this window
        self._stale: dict[str, tuple[int, int]] = {}  # the gradients from before this window, by state
        self._trained: set[str] = set()  # the parameters that have had a gradient so far
        self._reliable: set[str] | None = None  # those that had one in every window that kept them
        self._warned = False

    def skippable(self, names: frozenset[str]) -> frozenset[str]:
        """Return those of `names` whose gradients are not computed in a window in which all others get one."""
        trainable = self._trainable()
        whole = frozenset() if self.obstacle else without_split(names & trainable, self._regions)
        return whole if trainable - whole else frozenset()

    def start(self, names: frozenset[str]) -> None:
        """Stop computing the gradients of those of `names` that can safely be skipped."""
        self._kept = self._trainable()
        names = self._safe(names & self._kept)
        if not names:
            return
        for name in names:
            self._parameters[name].requires_grad_(False)
        self._skipped, self._kept = names, self._kept - names
        gradients = ((name, self._parameters[name].grad) for name in self._kept)
        self._stale = {name: _state(gradient) for name, gradient in gradients if gradient is not None}
        self._witness.watch((self._kept & self._trained).difference(*self._regions))  # hooks recompile
        for module, own in self._adapters:
            if held := [self._parameters[name] for name in (own & names).difference(*self._regions)]:
                self._holds.append(module.register_forward_pre_hook(partial(_keep_off, held)))

    def stop(self) -> frozenset[str]:
        """Restore every `requires_grad`, and return the tensors for which it was off."""
        skipped, self._skipped = self._skipped, frozenset()
        self._witness.leave()
        for handle in self._holds:
            handle.remove()
        self._holds = []
        for name in skipped:
            self._parameters[name].requires_grad_(True)
        return skipped

    def __del__(self) -> None:
        if self._skipped:  # a training that was interrupted has left a window open
            self.stop()

    def finish(self, gradients: Mapping[str, Tensor], step: int) -> dict[str, int]:
        """Restore every `requires_grad`, and look for tensors that have no gradient because others were skipped.

        This happens to modules that run without a graph and are recomputed in the backward pass, if the backward pass
        never reaches them: reentrant activation checkpointing of a module whose input needs no gradient.

        Args:
            gradients: The gradients, by name.
            step: The step, for the error.

        Returns:
            The tensors whose gradients were not computed, with their numbers of entries.

        Raises:
            RuntimeError: If a tensor should have a gradient, as it had before, and has none because of skipping.
        """
        skipped = self.stop()
        if skipped and gradients:
            fresh = {name for name, gradient in gradients.items() if self._stale.get(name) != _state(gradient)}
            if lost := self._witness.without_graph() - fresh:
                raise RuntimeError(
                    f"`{min(lost)}` should train. Found no gradient at step {step}, where the work on gradients that "
                    f"are dropped was skipped. Activation checkpointing should be given `use_reentrant=False`; "
                    f"otherwise use `skip_dropped=False`."
                )
        if gradients:  # else no backward pass was run, and nothing was learnt
            self._trained.update(gradients)
            self._reliable = (
                set(gradients) if self._reliable is None else self._reliable - (self._kept - gradients.keys())
            )
        return {name: self._parameters[name].numel() for name in skipped}

    def state_dict(self) -> dict[str, list[str]]:
        """Return what was observed so far, by name, so that a resumed run skips the same as an uninterrupted one."""
        return {"trained": sorted(self._trained), "reliable": sorted(self._reliable or ())}

    def load_state_dict(self, state: Mapping[str, Collection[str]]) -> None:
        """Restore what `state_dict` returned."""
        self._trained = set(state.get("trained", ())) & set(self._parameters)
        self._reliable = set(state.get("reliable", ())) & set(self._parameters) or None

    def _trainable(self) -> frozenset[str]:
        return frozenset([name for name, tensor in self._parameters.tensors.items() if tensor.requires_grad])

    def _safe(self, names: frozenset[str]) -> frozenset[str]:
        if not names:
            return names
        if self.obstacle:
            self._warn(self.obstacle)
            return frozenset()
        whole = without_split(names, self._regions)
        if whole != names:
            self._warn("one compiled region holds what is dropped and what is kept; compile block by block")
        # the loss needs at least one tensor that requires a gradient
        return whole if self._reliable and self._reliable & (self._kept - whole) else frozenset()

    def _warn(self, why: str) -> None:
        if not self._warned:
            warnings.warn(
                f"Gradients that are dropped whole are computed nevertheless, with the same result but slower: {why}. "
                f"`skip_dropped=False` does the same without this warning.",
                stacklevel=2,
            )
        self._warned = True


class _Witness:
    """A record of which modules run in a window, and whether they run with a graph.

    Args:
        parameters: The parameters of the model.
    """

    _watched: frozenset[str] | None = None

    def __init__(self, parameters: NamedParameters) -> None:
        self._parameters = parameters
        self._names: dict[str, list[str]] = {}  # names of parameters by the path of their module
        self._graph: dict[str, bool] = {}
        self._handles: list[RemovableHandle] = []

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        # looking them up in every window would cost as much as a clip
        return {path: self._parameters.model.get_submodule(path) for path in self._parameters.owners.values()}

    def watch(self, names: frozenset[str]) -> None:
        """Start watching the modules of some parameters."""
        if names != self._watched:
            self._watched, self._names = names, {}
            for name in names:
                self._names.setdefault(self._parameters.owners[name], []).append(name)
        self._graph = {}
        module_at = (
            self._modules.__getitem__ if self._parameters.has_same_members else self._parameters.model.get_submodule
        )
        self._handles = [module_at(path).register_forward_pre_hook(partial(self._see, path)) for path in self._names]

    def leave(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def without_graph(self) -> set[str]:
        """Return the parameters whose modules ran in the window, but never with a graph."""
        return {name for path, graph in self._graph.items() if not graph for name in self._names[path]}

    def _see(self, path: str, *_: Any) -> None:
        self._graph[path] = self._graph.get(path, False) or torch.is_grad_enabled()


def _adapters(parameters: NamedParameters) -> list[tuple[nn.Module, frozenset[str]]]:
    """Return the modules of PEFT and their parameters.

    They set `requires_grad` whenever adapters are switched off and on, as for the reference model of DPO, between the
    forward and the backward pass: activation checkpointing would compute another graph than before.
    """
    names = {id(parameter): name for name, parameter in parameters.tensors.items()}
    modules = (module for module in parameters.model.modules() if getattr(module, "adapter_layer_names", ()))
    return [
        (module, frozenset(names[id(parameter)] for parameter in module.parameters() if id(parameter) in names))
        for module in modules
    ]


def _keep_off(tensors: Iterable[Tensor], *_: Any) -> None:
    for tensor in tensors:
        tensor.requires_grad_(False)


def _state(gradient: Tensor) -> tuple[int, int]:
    return id(gradient), version_of(gradient)


def _obstacle(model: nn.Module) -> str | None:
    """Return why no gradient of this model may be skipped, or `None`."""
    parallel = nn.parallel.DistributedDataParallel
    wrapper = uncompiled(model)
    if any(isinstance(module, parallel | nn.DataParallel) for module in model.modules() if module is not wrapper):
        return "a submodule is wrapped for parallel training on its own"
    if isinstance(wrapper, nn.DataParallel):
        return "DataParallel is not known to work with it"
    if isinstance(wrapper, parallel):
        if wrapper.static_graph or not wrapper.find_unused_parameters:
            return "DDP skips with `find_unused_parameters=True` and without `static_graph` only"
        return None
    if any(is_spread(parameter) for parameter in model.parameters()):
        return "FSDP2 reduces the gradients of a module together"
    processes = torch.distributed
    if processes.is_available() and processes.is_initialized() and processes.get_world_size() > 1:
        return "with several processes, the engine has to be given the DistributedDataParallel wrapper"
    return None


def _compiled_regions(model: nn.Module, parameters: NamedParameters) -> list[frozenset[str]]:
    """Return the parameters of each module that is compiled as a whole or has a compiled method."""
    names = {id(parameter): name for name, parameter in parameters.tensors.items()}
    return [
        frozenset(names[id(parameter)] for parameter in module.parameters() if parameter.requires_grad)
        for module in model.modules()
        if is_compiled(module)
    ]
