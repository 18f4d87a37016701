from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_sparsegrad.functional import _blocks as blocks
from lightning_sparsegrad.functional import derive_key, derive_keys, hash_entries, hash_index, keep_threshold
from lightning_sparsegrad.functional.hashing import folded_indices, hash_stack, stack_words
from tests.cases import cases
from tests.nasty import EXAMPLES

CPU = torch.device("cpu")
WORD = 2**32
keys = st.integers(0, 2**64 - 1)


def entries(key: int, start: int, count: int) -> list[int]:
    values: list[int] = hash_entries(key, start, count, CPU).tolist()
    return [value + 2**31 for value in values]


@EXAMPLES
@given(key=keys, start=st.integers(0, 2**64 - 1), count=st.integers(0, 40))
def test_tensors_and_integers_hash_alike(key, start, count):
    count = min(count, WORD - start % WORD)
    assert entries(key, start, count) == [hash_index(key, start + i) for i in range(count)]


@cases("starts", [[0, 0, 0], [0, 1000, WORD - 20], [5 * WORD + 7, 0, 3 * WORD]], ids=["none", "low", "high"])
def test_the_tensors_of_a_stack_are_hashed_by_their_own_keys_and_starts(starts):
    own = [derive_key("stack", 0), 2**64 - 1, 0]
    words = stack_words(own, starts, [0, WORD // 2, WORD - 1], folded=not any(starts))
    hashes = hash_stack(words, 20, folded=not any(starts))
    assert [[value + 2**31 for value in row] for row in hashes.tolist()] == [
        [hash_index(key, start + i) for i in range(20)] for key, start in zip(own, starts, strict=True)
    ]
    assert words[:, 3].tolist() == [-(2**31), 0, 2**31 - 1]


@cases("parts", [("GradDrop", 0, 7), ("a",), (5,), ("x)", None), ("y,",), ("z", (1, 2))], ids=str)
def test_keys_of_many_names_are_those_of_each(parts):
    names = ["encoder.weight", "it's", "(b,)", ""]
    assert derive_keys(parts, names) == [derive_key(*parts, name) for name in names]


def test_a_range_may_be_longer_than_many_blocks():
    count = 1200 * 64 + 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_CPU_BLOCK", 64)
        folded_indices.cache_clear()
        actual = entries(3, 17, count)
    folded_indices.cache_clear()
    assert actual == entries(3, 17, count)


@cases(
    "start",
    [0, 2**31 - 8, WORD - 16, WORD, WORD + 2**31 - 8, 3 * WORD - 16, 2**64 - 16],
    ids=["first", "sign bit", "up to the border", "at the border", "sign bit above", "next border", "last"],
)
def test_tensors_and_integers_hash_alike_at_borders(start):
    assert entries(0x0123456789ABCDEF, start, 16) == [hash_index(0x0123456789ABCDEF, start + i) for i in range(16)]


def test_an_index_beyond_a_word_does_not_repeat_the_first_word():
    first, second, third = (entries(7, high * WORD, 64) for high in range(3))
    assert len({*first, *second, *third}) == 3 * 64


@cases(
    ("key", "index", "expected"),
    [
        (0, 0, 0x00000000),
        (0, 1, 0x0427514B),
        (1, 0, 0x0427514B),
        (WORD, 0, 0x780E6A43),
        (0x0123456789ABCDEF, 123456789, 0xED6FC871),
        (0x0123456789ABCDEF, WORD, 0x13F57F9E),
        (2**64 - 1, 2**64 - 1, 0x190CF2E0),
    ],
)
def test_the_bits_stay_what_they_are(key, index, expected):
    assert hash_index(key, index) == expected
    assert entries(key, index, 1) == [expected]


@cases(
    ("parts", "expected"),
    [
        ((), 0x4F0674F87B549197),
        (("GradDrop", 0, "encoder.weight", 7), 0xEE1E67D996F5E60A),
        (("GradDrop", None, "größe", -1), 0xA2437555AC0E7BAD),
    ],
)
def test_keys_stay_what_they_are(parts, expected):
    assert derive_key(*parts) == expected


def test_keys_tell_types_order_and_grouping_apart():
    parts: list[tuple[str | int | None, ...]]
    parts = [(1,), ("1",), (1, 2), (2, 1), (12,), ("1", 2), ("12",), ("1, 2",), (None,), ("None",), ("",), (), (-1,)]
    assert len({derive_key(*each) for each in parts}) == len(parts)


@cases(
    ("rate", "expected"),
    [(0.0, 0), (1.0, WORD), (0.5, 2**31), (0.25, 2**30), (0.1, 429496730), (2**-32, 1), (1e-12, 0)],
)
def test_a_rate_becomes_a_threshold_by_rounding(rate, expected):
    assert keep_threshold(rate) == expected


@cases("bit", range(32))
def test_flipping_one_bit_of_the_index_flips_half_of_the_bits(bit):
    key, count = derive_key("avalanche"), 1 << 12
    start = torch.tensor(entries(key, 0, count))
    flipped_index = torch.arange(count) ^ (1 << bit)  # within the first `count`, or a range of its own
    other = start[flipped_index] if bit < 12 else torch.tensor(entries(key, 1 << bit, count))
    for out in range(12, 32):  # the high bits decide a comparison with a threshold
        flipped = ((start ^ other) >> out & 1).double().mean().item()
        assert abs(flipped - 0.5) < 6 * 0.5 / count**0.5


def test_every_index_of_a_word_has_its_own_hash():
    count = 1 << 20
    assert len(torch.unique(hash_entries(derive_key("bijective"), 0, count, CPU))) == count
    assert comb(count, 2) / WORD > 100  # independent draws would have collided more than a hundred times
