"""Deprecated ways of 0.1 to write a strategy, which work until 0.3 with one warning per engine."""

import warnings
from collections.abc import Iterator

from lightning_sparsegrad.transforms.base import GradientTransform
from lightning_sparsegrad.transforms.chain import Chain

_OURS = __name__.partition(".")[0]
_INSTEAD = {
    "skippable": "`dropped` and `reads_together` in place of `skippable`",
    "handles_shards": "`on_shards` in place of `handles_shards`",
    "gradients.drop": "`dropped` in place of `gradients.drop` (`gradients.lose` if it depends on the gradients)",
}


class Deprecated:
    """A record of the deprecated names that strategies use, with one warning.

    Args:
        transform: The engine's transform.
    """

    def __init__(self, transform: GradientTransform) -> None:
        self._uses: dict[str, list[str]] = {}  # by class
        for member in _members(transform):
            for name in ("skippable", "handles_shards"):
                if _defines(member, name):
                    self._note(member, name)
        self._warned = False

    def drops(self, transform: object) -> None:
        """Note that a strategy, or one that it contains, drops tensors in its `apply_`."""
        if isinstance(transform, GradientTransform):
            *_, inmost = [transform, *(member for member in _members(transform) if not _is_ours(member))]
            self._note(inmost, "gradients.drop")

    def warn(self) -> None:
        """Warn once about all deprecated names that were used, if any."""
        if self._warned or not self._uses:
            return
        self._warned = True
        advice = (
            f"`{kind}` should state {', '.join(_INSTEAD[name] for name in names)}" for kind, names in self._uses.items()
        )
        warnings.warn(
            f"{'; '.join(advice)}, see `GradientTransform`: the old names will be removed in 0.3.",
            DeprecationWarning,
            stacklevel=7,  # the caller of `GradientEngine.apply_`, which is decorated twice
        )

    def _note(self, member: GradientTransform, name: str) -> None:
        names = self._uses.setdefault(type(member).__name__, [])
        if name not in names:
            names.append(name)


def _members(transform: GradientTransform) -> Iterator[GradientTransform]:
    yield transform
    inner = transform.transforms.values() if isinstance(transform, Chain) else transform.flattened()
    for member in inner:
        if member is not transform:
            yield from _members(member)


def _defines(member: GradientTransform, name: str) -> bool:
    kinds = [kind for kind in type(member).__mro__ if kind.__module__.partition(".")[0] != _OURS]
    return name in vars(member) or any(name in vars(kind) for kind in kinds)


def _is_ours(member: GradientTransform) -> bool:
    return type(member).__module__.partition(".")[0] == _OURS
