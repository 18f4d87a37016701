"""The golden rows of GradDrop."""

from collections.abc import Collection, Mapping
from math import prod

import torch

from lightning_sparsegrad import GradDrop, Linear, TopDown
from lightning_sparsegrad.functional import derive_key
from tests.layout import Layout
from tests.reference import Entries, Rate, Reference, Values, When, draw, falls, rate_of
from tests.transforms.golden._row import Fit, Golden

_WEIGHT = "model.bert.encoder.layer.3.attention.self.query.weight"


def drop_entries(
    rate: Rate,
    *,
    seed: int | None = None,
    every: int | str | None = 1,
    by_row: bool = False,
    rescale: bool = False,
    leave: Collection[str] = (),
) -> Reference:
    """Return GradDrop of entries or rows; the parameters in `leave` are left alone."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        done: Values = {}
        for name, entries in values.items():
            share = rate_of(rate, when, name, layout)
            if entries is None or name in leave or share == 0:
                done[name] = entries
                continue
            if round(share * 2**32) == 2**32:
                done[name] = None
                continue
            key = derive_key("GradDrop", when.seed if seed is None else seed, when.index(every), name)
            row = max(prod(entries.shape[1:]), 1) if by_row else 1
            changed = []
            for index, value in enumerate(entries.values):
                factor = 1 / (1 - share) if rescale else 1.0
                changed.append(value * 0.0 if falls(key, index // row, share) else value * factor)
            done[name] = Entries(entries.shape, changed)
        return done

    return step


def drop_units(
    rate: Rate,
    kind: str | Mapping[str, str],
    *,
    seed: int | None = None,
    every: int | str | None = 1,
    rescale: bool = False,
    leave: Collection[str] = (),
) -> Reference:
    """Return GradDrop of tensors or components; the parameters in `leave` are left alone."""

    def step(values: Values, when: When, layout: Layout) -> Values:
        units = {
            unit: touched
            for unit, pieces in layout.units(kind).items()
            if (touched := [(name, indices) for name, indices in pieces if name not in leave])
        }
        rates = {
            unit: min(rate_of(rate, when, name, layout) for name, _ in pieces)  #
            for unit, pieces in units.items()
        }
        lost: dict[str, set[int]] = {}

        def lose(dropped: set[str]) -> bool:
            lost.clear()
            for unit in dropped:
                for name, indices in units[unit]:
                    lost.setdefault(name, set()).update(indices)
            return any(not whole(name, dropped) for name in layout.shapes if name not in layout.frozen)

        def whole(name: str, dropped: set[str]) -> bool:
            return name not in leave and all(
                unit in dropped for unit, pieces in units.items() for piece, _ in pieces if piece == name
            )

        key = "GradDrop", when.seed if seed is None else seed, when.index(every)
        dropped = draw(rates, key, lose)
        done: Values = {}
        for name, entries in values.items():
            if entries is None or whole(name, dropped):
                done[name] = None
                continue
            changed = list(entries.values)
            for unit, pieces in units.items():
                for piece, indices in pieces:
                    if piece == name:
                        factor = 0.0 if unit in dropped else 1 / (1 - rates[unit]) if rescale else 1.0
                        for index in indices:
                            changed[index] *= factor
            done[name] = Entries(entries.shape, changed)
        return done

    return step


def falling(progress: float, height: float) -> float:
    """Return `Linear(0.8, 0.2)`."""
    return 0.8 - 0.6 * progress


def _top_down(progress: float, height: float) -> float:
    return 1 - min(1.0, max(0.0, 1 - (1 - height - progress) / 0.5))


# ---------------------------------------------------------------- effects
def keeps_80_percent(fit: Fit) -> None:
    assert all(abs(float(statistics["kept"]) - 0.8) < 0.001 for statistics in fit.statistics)
    for step in range(len(fit.gradients)):
        assert abs(float((fit.present(step)[_WEIGHT] == 0).float().mean()) - 0.2) < 0.01


def _same_mask(fit: Fit, first: int, second: int) -> bool:
    return torch.equal(fit.present(first)[_WEIGHT] == 0, fit.present(second)[_WEIGHT] == 0)


def _masks_each_step(fit: Fit) -> None:
    keeps_80_percent(fit)
    assert not _same_mask(fit, 0, 1)


def _masks_each_epoch(fit: Fit) -> None:
    keeps_80_percent(fit)
    assert _same_mask(fit, 0, 1)
    assert not _same_mask(fit, 2, 3)  # three steps to an epoch


def _unfreezes_sparsely(fit: Fit) -> None:
    kept = [float(statistics["kept"]) for statistics in fit.statistics]
    assert kept == sorted(kept)
    assert kept[0] < 0.5
    assert kept[-1] == 1
    assert "model.bert.embeddings.word_embeddings.weight" not in fit.trained(0)
    assert "model.classifier.weight" in fit.trained(0)


ROWS = (
    Golden(
        GradDrop(0.5),
        (-377.40625, 288.78125, 232.5625),
        does=drop_entries(0.5),
        overlay="grad_drop",
        effect=_masks_each_step,
    ),
    Golden(
        GradDrop(0.25, rescale=True, resample_every="epoch", exclude="*.norm.*", seed=3),
        (279.093777, 23.2187473, -174.854162),
        does=drop_entries(
            0.25,
            rescale=True,
            every="epoch",
            seed=3,
            leave=[f"blocks.{i}.norm.{kind}" for i in range(2) for kind in ("weight", "bias")],
        ),
        overlay="graddrop_epoch",
        effect=_masks_each_epoch,
    ),
    Golden(
        GradDrop(0.5, granularity="row", resample_every=None),
        (-481.8125, 211.34375, -32.9375),
        does=drop_entries(0.5, by_row=True, every=None),
    ),
    Golden(
        GradDrop(0.5, granularity="tensor", rescale=True),
        (-199.125, 171.8125, -701.125),
        (13, 14, 11),
        does=drop_units(0.5, "tensor", rescale=True),
    ),
    Golden(
        GradDrop(0.6, granularity="component"),
        (-117.125, 124.1875, -382.59375),
        (13, 15, 12),
        does=drop_units(0.6, "projection"),
    ),
    Golden(
        GradDrop(0.5, granularity="component", components="block", resample_every=2),
        (-240.125, -40.40625, -369.125),
        (2, 15, 3),
        does=drop_units(0.5, "block", every=2),
    ),
    Golden(GradDrop(Linear(0.8, 0.2)), (-35.3125, 442.09375, -95.375), does=drop_entries(falling)),
    Golden(
        GradDrop(TopDown(1.0, 0.0, width=0.5)),
        (-84.6875, 318.6875, -465.34375),
        (10, 2, 0),
        does=drop_entries(_top_down),
        overlay="sparse_unfreezing",
        effect=_unfreezes_sparsely,
    ),
)
