"""Strategies in the way of 0.1, which work until 0.3: one warning for each engine."""

import warnings
from collections.abc import Iterator

from lightning_sparsegrad.transforms.base import GradientTransform
from lightning_sparsegrad.transforms.chain import Chain

_OURS = __name__.partition(".")[0]
_INSTEAD = {
    "skippable": "`dropped` and `reads_together`",
    "handles_shards": "`on_shards`",
    "gradients.drop": "`dropped`",
}


class Deprecated:
    """Sees what strategies use that goes with 0.3, and warns of it once.

    Args:
        transform: The engine's transform.
    """

    def __init__(self, transform: GradientTransform) -> None:
        self._transform = transform
        self._uses = {
            name: type(member).__name__
            for member in self._members(transform)
            for name in ("skippable", "handles_shards")
            if _defines(member, name)
        }
        self._warned = False

    def drops(self) -> None:
        """Note that a strategy drops tensors in its `apply_`."""
        kinds = [type(member).__name__ for member in self._members(self._transform) if not _is_ours(member)]
        self._uses.setdefault("gradients.drop", next(iter(self._uses.values()), ", ".join(dict.fromkeys(kinds))))

    def _members(self, transform: GradientTransform) -> Iterator[GradientTransform]:
        yield transform
        inner = transform.transforms.values() if isinstance(transform, Chain) else transform.flattened()
        for member in inner:
            if member is not transform:
                yield from self._members(member)

    def warn(self) -> None:
        """Warn of all that was seen, if anything was."""
        if self._warned or not self._uses:
            return
        self._warned = True
        kinds = ", ".join(f"`{kind}`" for kind in dict.fromkeys(self._uses.values()))
        instead = " and ".join(dict.fromkeys(_INSTEAD[name] for name in self._uses))
        warnings.warn(
            f"{kinds} should state {instead}, see `GradientTransform`: what it uses instead, "
            f"{', '.join(f'`{name}`' for name in self._uses)}, goes with 0.3.",
            DeprecationWarning,
            stacklevel=4,
        )


def _defines(member: GradientTransform, name: str) -> bool:
    kinds = [kind for kind in type(member).__mro__ if kind.__module__.partition(".")[0] != _OURS]
    return name in vars(member) or any(name in vars(kind) for kind in kinds)


def _is_ours(member: GradientTransform) -> bool:
    return type(member).__module__.partition(".")[0] == _OURS
