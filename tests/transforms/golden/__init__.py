"""The effect of every strategy on the gradients of a fixed small model: one file per strategy, with its golden rows.

A new strategy adds a file here with its `ROWS`, one of them with an overlay. Zeros may stand for the numbers at first:
`python -m tests.transforms.golden ITS_NAME` prints them.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from importlib import import_module
from pkgutil import iter_modules

import torch
from torch import Tensor

from tests.transforms.golden._row import Effect, Golden
from tests.transforms.small import bits, run

__all__ = ["GOLDEN", "Effect", "Golden", "digests", "weighted_sum"]


def _rows() -> Iterator[Golden]:
    for name in sorted(module.name for module in iter_modules(__path__)):
        if not name.startswith("_"):
            rows = getattr(import_module(f"{__name__}.{name}"), "ROWS", ())
            assert rows, f"tests/transforms/golden/{name}.py needs `ROWS`, a tuple of `Golden`"
            yield from rows


GOLDEN = tuple(_rows())


def weighted_sum(gradients: Mapping[str, Tensor | None]) -> float:
    """Return the sum of all entries, weighted by position so that swapping two entries changes it."""
    total = 0.0
    for name, gradient in gradients.items():
        if gradient is not None:
            weights = torch.arange(1, gradient.numel() + 1, dtype=torch.float64) + sum(name.encode()) % 31
            total += float((gradient.double().flatten() * weights).sum())
    return total


def digests() -> list[str]:
    """Return a hash of every row's gradients, bit by bit."""
    hashes = []
    for row in GOLDEN:
        digest = blake2b()
        for gradients in run(row.transform).values():
            for name, gradient in sorted(gradients.items()):
                numbers = None if gradient is None else bits(gradient).flatten().tolist()
                digest.update(f"{name}: {numbers}".encode())
        hashes.append(digest.hexdigest())
    return hashes
