"""The scores by which `SparseMask` chooses what trains: of the weights, at random, or summed over windows."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional import component_norms, derive_key, hash_entries, shard_of
from lightning_sparsegrad.functional._blocks import ranges
from lightning_sparsegrad.functional.sharding import Group
from lightning_sparsegrad.transforms.base import Gradients

OF_GRADIENTS = ("fisher", "gradient", "movement")
OF_WEIGHTS = ("weight", "nonzero")


class GradientScores:
    """Scores of entries, summed over the gradients of windows in float32.

    Args:
        kind: `"fisher"`: squares; `"gradient"`: absolute values; `"movement"`: the gradients themselves.

    Attributes:
        windows: The number of windows summed so far, without those with a gradient that is not finite.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._sums: dict[str, Tensor] = {}  # of the rows of this process
        self.windows: Tensor | float = 0

    @property
    def is_empty(self) -> bool:
        """Whether no window has been summed; reads a number on the host."""
        return not self.windows

    def add(self, gradients: Gradients, names: Sequence[str]) -> None:
        """Add the gradients of a window, unless one of them is not finite."""
        finite = gradients.finite
        for name in names:
            if name in gradients:
                gradient = shard_of(gradients[name]).local.float()
                term = {"fisher": gradient.square, "gradient": gradient.abs, "movement": gradient.clone}[self._kind]()
                term.masked_fill_(~finite.to(term.device), 0.0)
                self._sums[name] = term + self._sums[name].to(term.device) if name in self._sums else term
        self.windows = finite + self.windows

    def of(self, name: str, weight: Tensor) -> Tensor:
        """Return the scores of a weight's entries, zeros if no window has been summed.

        Args:
            name: Its name.
            weight: The rows of it that this process holds.
        """
        total = self._sums.get(name)
        if total is None:
            return torch.zeros_like(weight, dtype=torch.float32)
        total = total.to(weight.device)  # the model may have moved
        return -total * weight.float() if self._kind == "movement" else total

    def require_some(self, scores: Sequence[Tensor], groups: Sequence[Group | None]) -> None:
        """Raise a `ConfigurationError` if no window has been summed, or all scores are zero; reads on the host.

        Args:
            scores: The scores of all tensors, of the rows that this process holds.
            groups: For each tensor the processes over which it is sharded, see `component_norms`.
        """
        if self.is_empty:
            raise ConfigurationError(
                "Gradients should be finite in a calibration window at least. Found one that is not in each."
            )
        if not component_norms(scores, [len(scores)], norm_type=inf, groups=groups):
            raise ConfigurationError(
                f"Gradients should give scores that are not zero in a calibration window at least. "
                f"Found zeros alone in {int(self.windows)} of them."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and how many windows they are of."""
        return {"scores": dict(self._sums), "windows": int(self.windows)}

    def load_state_dict(self, state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: What it returned.
            weights: The parameters of the model; scores of others are left out.

        Raises:
            ConfigurationError: If it is something else, or of a model with other shapes.
        """
        try:
            sums, windows = dict(state["scores"]), int(state["windows"])
            wrong = [name for name, total in sums.items() if name in weights and total.shape != weights[name].shape]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"Parameter `state` should hold sums of scores. Found {error!r}.") from error
        if wrong:
            raise ConfigurationError(
                f"Parameter `state` should hold scores of the shapes of the model. Found others for `{wrong[0]}`."
            )
        self._sums, self.windows = {name: total for name, total in sums.items() if name in weights}, windows


def random_scores(name: str, seed: int, start: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return int32 scores that depend on a seed, a name and the index of an entry alone.

    Args:
        name: The name of a parameter.
        seed: The seed.
        start: Index of the first entry.
        shape: Shape of the result.
        device: Device of the result.
    """
    key, count = derive_key("SparseMask", seed, name), torch.Size(shape).numel()
    blocks = [hash_entries(key, begin, length, device) for begin, length in ranges(start, count, device)]
    return (
        torch.cat(blocks).view(tuple(shape)) if blocks else torch.zeros(tuple(shape), dtype=torch.int32, device=device)
    )


def of_rows(scores: Tensor) -> Tensor:
    """Return the mean score of each row; those of a tensor without rows as they are."""
    return scores.flatten(1).mean(1) if scores.ndim > 1 else scores
