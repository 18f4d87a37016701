"""Work that need not be done: the gradient of a tensor that will be dropped whole is not computed.

While a window is open such a tensor does not require a gradient, so that autograd leaves its weight gradient out, and
ends the backward pass above the lowest tensor that trains. The weights come out as if everything had been computed.
"""

import warnings
from collections.abc import Collection

import torch
from torch import nn

from lightning_sparsegrad.components import NamedParameters, find_layers
from lightning_sparsegrad.errors import ConfigurationError


class WorkSkipper:
    """Turns `requires_grad` of tensors off for a window, where that changes nothing but the time it takes.

    Where it would, the gradients are computed and dropped, and one warning says why.

    Args:
        model: The model as it is called in training, its wrappers included.
        parameters: Its parameters.
    """

    def __init__(self, model: nn.Module, parameters: NamedParameters) -> None:
        self._parameters = parameters
        self._obstacle = _obstacle(model)
        self._regions = _compiled_regions(model, parameters)
        self._trained: set[str] = set()  # what has had a gradient so far
        self._skipped: frozenset[str] = frozenset()
        self._told = False

    def start(self, names: frozenset[str]) -> None:
        """Stop computing the gradients of those of `names` for which that is safe."""
        trainable = frozenset(name for name in self._parameters if self._parameters[name].requires_grad)
        names &= trainable
        if not names:
            return
        if self._obstacle:
            self._tell(self._obstacle)
            return
        while split := [region for region in self._regions if region & names and not region <= names]:
            self._tell("one compiled region holds what is dropped and what is kept; compile block by block")
            names = names.difference(*split)
        if (self._trained or trainable) <= names:  # the loss needs something to differentiate by
            return
        for name in names:
            self._parameters[name].requires_grad_(False)
        self._skipped = names

    def stop(self) -> frozenset[str]:
        """Put every `requires_grad` back where it was, and return the tensors for which it was off."""
        skipped, self._skipped = self._skipped, frozenset()
        for name in skipped:
            self._parameters[name].requires_grad_(True)
        return skipped

    def finish(self, found: Collection[str], step: int) -> dict[str, int]:
        """Put every `requires_grad` back, and check that nothing was skipped that should have trained.

        Args:
            found: The tensors that have a gradient.
            step: Where training stands, for the error.

        Returns:
            The tensors left without the gradient they would have had, with their numbers of entries.

        Raises:
            RuntimeError: If a whole layer that should have trained has no gradient while others were skipped.
        """
        skipped = self.stop()
        missing = self._trained.difference(found, skipped)
        if skipped and found and missing:
            for layer in self._layers():
                expected = (layer & self._trained) - skipped
                if expected and expected <= missing:
                    raise RuntimeError(
                        f"`{min(expected)}` and its layer should train. Found no gradient at step {step}, where the "
                        f"work of layers that are dropped was skipped. Activation checkpointing should be given "
                        f"`use_reentrant=False`; where a model leaves layers out by itself, use `skip_dropped=False`."
                    )
        self._trained.update(found)
        return {name: self._parameters[name].numel() for name in skipped.difference(found)}

    def _layers(self) -> list[frozenset[str]]:
        """Return what trains together or not at all: each block, what else is of its depth, embeddings, head."""
        try:
            layers = find_layers(self._parameters)
        except ConfigurationError:  # no layers: the model as a whole is one
            return [frozenset(self._parameters)]
        groups: dict[tuple[int, str], set[str]] = {}
        for name in self._parameters:
            depth = layers.top_depth(name)
            steps = name.split(".")
            number = next((place for place, step in enumerate(steps) if step.isdigit()), -1)
            block = ".".join(steps[: number + 1]) if depth < layers.count else ""
            groups.setdefault((depth, block), set()).add(name)
        return [frozenset(group) for group in groups.values()]

    def _tell(self, why: str) -> None:
        if not self._told:
            warnings.warn(
                f"Gradients that are dropped whole are computed nevertheless, with the same result but slower: {why}. "
                f"`skip_dropped=False` says the same without this warning.",
                stacklevel=2,
            )
        self._told = True


def _obstacle(model: nn.Module) -> str | None:
    """Return why no gradient of this model may be skipped, or `None`."""
    wrapper = getattr(model, "_orig_mod", model)
    if isinstance(wrapper, nn.parallel.DistributedDataParallel):
        if wrapper.static_graph or not wrapper.find_unused_parameters:
            return "DDP skips with `find_unused_parameters=True` and without `static_graph` only"
        return None
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        return "of several processes, the engine has to be given the DistributedDataParallel wrapper"
    if any(isinstance(module, nn.DataParallel) for module in model.modules()):
        return "DataParallel is not known to work with it"
    return None


def _compiled_regions(model: nn.Module, parameters: NamedParameters) -> list[frozenset[str]]:
    """Return the parameters of each module that is compiled as one."""
    names = {id(parameter): name for name, parameter in parameters.tensors.items()}
    return [
        frozenset(names[id(parameter)] for parameter in module.parameters() if parameter.requires_grad)
        for module in model.modules()
        if hasattr(module, "_orig_mod")  # torch.compile(module)
        or module._compiled_call_impl is not None  # module.compile()
        or hasattr(module.forward, "_torchdynamo_orig_callable")  # module.forward = torch.compile(module.forward)
    ]
