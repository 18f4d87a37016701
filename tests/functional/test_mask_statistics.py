"""Masks are as random as they should be; keys are fixed, so that the numbers are the same every time."""

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from lightning_sparsegrad.functional import (
    derive_key,
    keep_mask,
)
from tests.cases import cases

KEY = derive_key("masking")
COUNT = 1 << 18
RATES = (0.01, 0.1, 0.5, 0.8, 0.99)
SIGMAS = 5.0


def signal(name: str, step: int, rate: float, shape: tuple[int, ...] = (COUNT,)) -> Tensor:
    """A mask as zero-mean, unit-variance numbers."""
    mask = keep_mask(shape, derive_key("GradDrop", 0, name, step), rate).float()
    return (mask - (1 - rate)).div(float(rate * (1 - rate)) ** 0.5)


def assert_none_correlate(signals: list[Tensor]) -> None:
    """Assert that no two of several signals correlate."""
    rows = torch.stack(signals).float()
    correlations = (rows @ rows.T / rows.shape[1]).fill_diagonal_(0)
    assert correlations.abs().max().item() < SIGMAS / rows.shape[1] ** 0.5


@cases("rate", RATES)
def test_the_kept_share_is_one_minus_the_rate(rate):
    for step in range(8):
        assert abs(signal("weight", step, rate).mean().item()) < SIGMAS / COUNT**0.5


@cases("rate", RATES)
def test_masks_of_different_steps_are_uncorrelated(rate):
    assert_none_correlate([signal("weight", step, rate) for step in range(8)])


@cases("distance", [0, 1, 6, 4096])
def test_a_key_is_more_than_a_permutation_of_one_sequence(distance):
    other = KEY ^ (0xDEADBEEF << 32) ^ distance  # its first words meet at entries whose indices differ by `distance`
    first, second = (keep_mask((COUNT,), key, 0.5).float() * 2 - 1 for key in (KEY, other))
    assert_none_correlate([first[torch.arange(COUNT) ^ distance], second])


def test_an_entry_is_kept_as_often_as_its_rate_says_over_steps():
    counts = sum(keep_mask((4096,), derive_key("GradDrop", 0, "w", step), 0.3).long() for step in range(200))
    assert isinstance(counts, Tensor)
    expected = stats.binom(200, 0.7).pmf(np.arange(201)) * 4096
    low, high = 125, 155  # the tails together, so that no cell is small
    observed = torch.bincount(counts.clamp(low, high), minlength=201)[low : high + 1].numpy()
    cells = np.concatenate([[expected[: low + 1].sum()], expected[low + 1 : high], [expected[high:].sum()]])
    assert stats.chisquare(observed, cells).pvalue > 1e-4


@cases("rate", RATES)
def test_masks_of_different_tensors_are_uncorrelated(rate):
    names = [f"encoder.layer.{i}.{leaf}" for i in range(4) for leaf in ("weight", "bias")]
    assert_none_correlate([signal(name, 5, rate) for name in names])


@cases("rate", [0.1, 0.5, 0.8])
@cases("lag", [*range(1, 65), 128, 384, 512, 768, 1024, 4096, 65536])
def test_neighbours_are_uncorrelated(lag, rate):
    mask = signal("weight", 0, rate)
    assert abs((mask[lag:] * mask[:-lag]).mean().item()) < SIGMAS / (COUNT - lag) ** 0.5


@cases("rate", [0.1, 0.5, 0.8])
def test_rows_and_columns_are_uncorrelated(rate):
    mask = signal("weight", 1, rate, (512, 512))
    for matrix in (mask, mask.T):
        correlations = matrix @ matrix.T / 512
        largest = (correlations - torch.diag(torch.diag(correlations))).abs().max().item()
        assert largest < 6.5 / 512**0.5  # the largest of 130,816 pairs is about 4.6 sigma for normal sums


@cases("rate", [0.2, 0.5, 0.8])
def test_every_pattern_of_eight_neighbours_is_as_frequent_as_it_should_be(rate):
    mask = keep_mask((COUNT,), derive_key("GradDrop", 0, "blocks", 0), rate).view(-1, 8).long()
    observed = torch.bincount((mask << torch.arange(8)).sum(dim=1), minlength=256)
    ones = torch.tensor([pattern.bit_count() for pattern in range(256)])
    expected = (1 - rate) ** ones * rate ** (8 - ones) * (COUNT // 8)
    order = expected.argsort(stable=True)
    cells = np.add.reduceat(expected[order].double().numpy(), _starts(expected[order]))
    counted = np.add.reduceat(observed[order].numpy(), _starts(expected[order]))
    assert stats.chisquare(counted, cells / cells.sum() * counted.sum()).pvalue > 1e-4


def _starts(expected: Tensor) -> list[int]:
    """Cut patterns into cells of at least five expected counts."""
    starts, total = [0], 0.0
    for i, count in enumerate(expected.tolist()):
        if total >= 5:
            starts.append(i)
            total = 0.0
        total += count
    return starts


@cases("rate", [0.2, 0.5, 0.8])
def test_runs_are_as_long_as_they_should_be(rate):
    mask = keep_mask((COUNT,), derive_key("GradDrop", 0, "runs", 0), rate)
    lengths = torch.unique_consecutive(mask, return_counts=True)
    kept_runs = lengths[1][lengths[0]].clamp(max=12)
    observed = torch.bincount(kept_runs, minlength=13)[1:].numpy()
    chances = stats.geom(rate).pmf(np.arange(1, 12))
    cells = np.append(chances, 1 - chances.sum()) * observed.sum()
    enough = cells >= 5
    cells = np.append(cells[enough], cells[~enough].sum())
    counted = np.append(observed[enough], observed[~enough].sum())
    if not cells[-1]:
        cells, counted = cells[:-1], counted[:-1]
    assert stats.chisquare(counted, cells).pvalue > 1e-4
