"""What every strategy makes of the gradients of a fixed small model: one golden row each, or more.

A new strategy adds a row; `python -m tests.transforms.golden` prints the numbers of all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import inf

import torch
from torch import Tensor

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    GlobalNormClip,
    GradDrop,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    Identity,
    LayerGradDrop,
    Linear,
    TopDown,
    ValueClip,
)
from tests import reference
from tests.reference import Reference, When
from tests.transforms.small import bits, run


@dataclass(frozen=True)
class Golden:
    """What a strategy makes of the formula's gradients.

    Args:
        transform: The strategy, with arguments.
        sums: For each of `small.WINDOWS`, the sum of all entries left, each times its position (see `weighted_sum`).
        dropped: For each of `small.WINDOWS`, how many tensors end without a gradient.
        does: The same as a slow reference.
    """

    transform: GradientTransform
    sums: tuple[float, ...]
    dropped: tuple[int, ...] = (0, 0, 0)
    does: Reference | None = None

    def __str__(self) -> str:
        return repr(self.transform)


def weighted_sum(gradients: Mapping[str, Tensor | None]) -> float:
    """Return the sum of all entries, weighted by place so that no two can change theirs unseen."""
    total = 0.0
    for name, gradient in gradients.items():
        if gradient is not None:
            places = torch.arange(1, gradient.numel() + 1, dtype=torch.float64) + sum(name.encode()) % 31
            total += float((gradient.double().flatten() * places).sum())
    return total


def _half_way(progress: float, height: float) -> float:
    return 0.8 - 0.6 * progress


def _top_down(progress: float, height: float) -> float:
    return 1 - min(1.0, max(0.0, 1 - (1 - height - progress) / 0.5))


def _joined(when: When) -> float:
    return when.progress * 4


def _rows() -> Iterator[Golden]:
    ref = reference
    yield Golden(Identity(), (-247.03125, 84.0625, -465.34375), does=ref.keep_all)
    yield Golden(GradDrop(0.5), (-377.40625, 288.78125, 232.5625), does=ref.drop_entries(0.5))
    yield Golden(
        GradDrop(0.25, rescale=True, resample_every="epoch", exclude="*.norm.*", seed=3),
        (279.093777, 23.2187473, -174.854162),
        does=ref.drop_entries(
            0.25,
            rescale=True,
            every="epoch",
            seed=3,
            leave=[f"blocks.{i}.norm.{kind}" for i in range(2) for kind in ("weight", "bias")],
        ),
    )
    yield Golden(
        GradDrop(0.5, granularity="row", resample_every=None),
        (-481.8125, 211.34375, -32.9375),
        does=ref.drop_entries(0.5, by_row=True, every=None),
    )
    yield Golden(
        GradDrop(0.5, granularity="tensor", rescale=True),
        (-199.125, 171.8125, -701.125),
        (13, 14, 11),
        does=ref.drop_units(0.5, "tensor", rescale=True),
    )
    yield Golden(
        GradDrop(0.6, granularity="component"),
        (-117.125, 124.1875, -382.59375),
        (13, 15, 12),
        does=ref.drop_units(0.6, "projection"),
    )
    yield Golden(
        GradDrop(0.5, granularity="component", components="block", resample_every=2),
        (-240.125, -40.40625, -369.125),
        (2, 15, 3),
        does=ref.drop_units(0.5, "block", every=2),
    )
    yield Golden(GradDrop(Linear(0.8, 0.2)), (-35.3125, 442.09375, -95.375), does=ref.drop_entries(_half_way))
    yield Golden(
        GradDrop(TopDown(1.0, 0.0, width=0.5)),
        (-84.6875, 318.6875, -465.34375),
        (10, 2, 0),
        does=ref.drop_entries(_top_down),
    )
    yield Golden(LayerGradDrop(0.5), (-113.75, 104.125, -260.875), (10, 10, 10), does=ref.drop_layers(0.5))
    yield Golden(
        LayerGradDrop(Linear(0.8, 0.2), resample_every=None, seed=5),
        (-16.625, 68.53125, -465.34375),
        (20, 20, 0),
        does=ref.drop_layers(_half_way, every=None, seed=5),
    )
    yield Golden(GradualUnfreezing(), (-16.625, 104.125, -465.34375), (20, 10, 0), does=ref.unfreeze(_joined))
    yield Golden(
        GradualUnfreezing(unfreeze_every="epoch"),
        (-16.625, 104.125, -426.3125),
        (20, 10, 2),
        does=ref.unfreeze(lambda when: when.epoch),
    )
    yield Golden(HeadOnly(), (-16.625, 68.53125, -96.21875), (20, 20, 20), does=ref.head_only)
    yield Golden(ComponentNormClip(0.5), (-31.4195645, 10.7838749, -62.6488448), does=ref.clip_norms(0.5, "projection"))
    yield Golden(
        ComponentNormClip(1.0, components="tensor", norm_type=inf),
        (-135.539796, 46.7540873, -241.124191),
        does=ref.clip_norms(1.0, "tensor", norm_type=inf),
    )
    yield Golden(
        ComponentNormClip(2.0, components="block", overrides={"head": 0.25, "embeddings": inf}),
        (-43.8532384, 21.8229255, -96.8965109),
        does=ref.clip_norms(2.0, "block", overrides={"head": 0.25, "embeddings": inf}),
    )
    yield Golden(
        ComponentNormClip(1.5, components="module"),
        (-59.4518632, 25.1168683, -116.477857),
        does=ref.clip_norms(1.5, "module"),
    )
    yield Golden(GlobalNormClip(3.0), (-37.8994446, 13.0982829, -71.9057779), does=ref.clip_norms(3.0, "all"))
    yield Golden(ValueClip(0.75), (-76.5625, 45.34375, -167.96875), does=ref.clip_values(0.75))
    yield Golden(
        Chain({"mask": GradDrop(0.5), "clip": ComponentNormClip(0.5)}),
        (-78.2000154, 32.7657042, 34.8473251),
        does=ref.in_order(ref.drop_entries(0.5), ref.clip_norms(0.5, "projection")),
    )
    yield Golden(
        Chain([GlobalNormClip(3.0), Chain({"layers": LayerGradDrop(0.5), "entries": GradDrop(0.5)}), ValueClip(0.1)]),
        (-2.18427681, 13.7316526, 18.0798821),
        (10, 10, 10),
        does=ref.in_order(
            ref.clip_norms(3.0, "all"), ref.drop_layers(0.5), ref.drop_entries(0.5), ref.clip_values(0.1)
        ),
    )


GOLDEN = tuple(_rows())


def digests() -> list[str]:
    """Return a hash of every row's gradients, bit by bit."""
    found = []
    for row in GOLDEN:
        digest = blake2b()
        for gradients in run(row.transform).values():
            for name, gradient in sorted(gradients.items()):
                numbers = None if gradient is None else bits(gradient).flatten().tolist()
                digest.update(f"{name}: {numbers}".encode())
        found.append(digest.hexdigest())
    return found


def print_numbers() -> None:
    """Print the numbers of every row."""
    for row in GOLDEN:
        done = run(row.transform).values()
        sums = ", ".join(f"{weighted_sum(gradients):.9g}" for gradients in done)
        dropped = tuple(sum(gradient is None for gradient in gradients.values()) for gradients in done)
        print(f"{row}: ({sums}), {dropped}")  # noqa: T201


if __name__ == "__main__":
    print_numbers()
