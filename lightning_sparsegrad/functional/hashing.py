r"""A counter-based hash: random bits as a pure function of (key, index), with no generator and no stored state.

Both forms below compute the same 32 bits, the first on Python integers, the second on tensors of any device:

.. math::
    x_1 &= i \oplus k_0                     & x_2 &= (x_1 \oplus (x_1 \gg 17)) \cdot m_1 \\
    x_3 &= x_2 \oplus k_1                   & x_4 &= (x_3 \oplus (x_3 \gg 11)) \cdot m_2 \\
    h   &= (x_4 \oplus (x_4 \gg 15)) \cdot m_3 \pmod{2^{32}}

with the low word :math:`i` of the index and a 64-bit key :math:`(k_1, k_0)` into which the index's high word is folded.
The key enters twice: with one xor, two keys would only permute one sequence, and their masks would correlate.

References:
    C. Wellons, "Prospecting for Hash Functions", 2018, https://nullprogram.com/blog/2018/07/31/: the multipliers and
    shifts of ``triple32``. Its closing ``x ^= x >> 14`` is omitted: it changes low bits only, and a mask compares the
    whole word with a threshold.
"""

from collections.abc import Sequence
from functools import cache
from hashlib import blake2b

import torch
from torch import Tensor

from lightning_sparsegrad.functional._blocks import block_size, ranges

MULTIPLIERS = (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)
SHIFTS = (17, 11, 15)
WORD = 1 << 32


def derive_key(*parts: str | int | None) -> int:
    """Return the 64-bit key of a tuple of names and numbers, the same on every machine and in every process.

    Args:
        *parts: The names and numbers, e.g. class name, seed, parameter name and resample index. Order and type matter:
            `1` and `"1"` give different keys.

    Example:
        >>> hex(derive_key("GradDrop", 0, "encoder.weight", 7))
        '0xee1e67d996f5e60a'
    """
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def derive_keys(parts: tuple[str | int | None, ...], names: Sequence[str]) -> list[int]:
    """Return `derive_key(*parts, name)` of each name, for which `parts` are hashed once.

    Args:
        parts: At least one.
        names: The last parts.
    """
    shared = blake2b(repr((*parts, None)).removesuffix("None)").encode(), digest_size=8)
    keys = []
    for name in names:
        own = shared.copy()
        own.update(f"{name!r})".encode())
        keys.append(int.from_bytes(own.digest(), "little"))
    return keys


def keep_threshold(rate: float) -> int:
    """Return the smallest hash that is kept at a drop rate, in [0, 2^32]; entries with a smaller hash are dropped.

    Args:
        rate: Expected fraction of dropped entries, in [0, 1]. It is resolved to multiples of 2^-32.
    """
    return round(rate * WORD)


def hash_index(key: int, index: int) -> int:
    """Return the 32 random bits of one index as an integer in [0, 2^32).

    Args:
        key: 64-bit key, see `derive_key`.
        index: Position, in [0, 2^64).
    """
    first, second = _words(key, index // WORD)
    x = (index % WORD) ^ first
    x = (x ^ x >> SHIFTS[0]) * MULTIPLIERS[0] % WORD ^ second
    x = (x ^ x >> SHIFTS[1]) * MULTIPLIERS[1] % WORD
    return (x ^ x >> SHIFTS[2]) * MULTIPLIERS[2] % WORD


def hash_entries(key: int, start: int, count: int, device: torch.device, work: Tensor | None = None) -> Tensor:
    """Return the hashes of indices `start` to `start + count - 1`, shifted to the range of int32.

    Args:
        key: 64-bit key, see `derive_key`.
        start: First index, in [0, 2^64). The range may not cross a multiple of 2^32.
        count: Number of indices, in [0, 2^31].
        device: Where to compute.
        work: int32 tensor of shape (2, block_size(device)) that is overwritten; with one for many blocks, each is
            computed in memory that is in the cache already.

    Returns:
        int32 tensor of shape (count,): `hash_index(key, i) - 2**31`, which preserves the order of the hashes. It may be
        a view of `work`.
    """
    size = block_size(device)
    position = start % size
    if position + count > size:
        return torch.cat([hash_entries(key, *block, device) for block in ranges(start, count, device)])
    first, second = _words(key, start // WORD)
    folded = folded_indices(device)[position : position + count]
    x, scratch = (torch.empty_like(folded) for _ in range(2)) if work is None else work[:, :count].unbind()
    torch.bitwise_xor(folded, signed(_fold(start % WORD - position ^ first)), out=x)
    return _finish_(x, scratch, signed(second))


def hash_indices(key: int, indices: Tensor) -> Tensor:
    """Return the hashes of any indices below 2^32, shifted to the range of int32.

    Args:
        key: 64-bit key, see `derive_key`.
        indices: int32 tensor of any shape: the indices modulo 2^32.
    """
    first, second = _words(key, 0)
    x = indices.bitwise_xor(signed(first))
    scratch = torch.empty_like(x)
    return _finish_(_xor_shift_(x, scratch, 0), scratch, signed(second))


def entry_words(key: int, start: int, threshold: int) -> list[int]:
    """Return the four int32 words with which a kernel masks the entries of a tensor, see `hash_stack`.

    Args:
        key: 64-bit key, see `derive_key`.
        start: Index of the first entry, in [0, 2^64).
        threshold: The smallest hash that is kept, in [0, 2^32), see `keep_threshold`.

    Returns:
        Low and high word of the key, the start, and the threshold in the shifted range of the hashes.
    """
    first, second = _words(key, start // WORD)
    return [signed(first), signed(second), signed(start % WORD), threshold - WORD // 2]


def stack_words(keys: list[int], starts: list[int], thresholds: list[int], *, folded: bool) -> Tensor:
    """Return the words of several tensors, see `entry_words`, as an int32 tensor of shape (keys, 4) on the CPU."""
    if any(start >= WORD for start in starts):
        pairs = zip(keys, starts, strict=True)
        keys = [derive_key(key, start // WORD) if start >= WORD else key for key, start in pairs]
    wide = torch.tensor(keys, dtype=torch.uint64, device="cpu").view(torch.int64)
    numbers = torch.tensor([starts, thresholds], dtype=torch.int64, device="cpu")
    first = wide.to(torch.int32)  # modulo 2^32, as the start below
    if folded:
        _xor_shift_(first, torch.empty_like(first), 0)
    last = (numbers[1] - WORD // 2).to(torch.int32)
    return torch.stack([first, (wide >> 32).to(torch.int32), numbers[0].to(torch.int32), last], dim=1)


def hash_stack(words: Tensor, count: int, *, folded: bool) -> Tensor:
    """Return the hashes of `count` indices under several keys, shifted to the range of int32.

    Args:
        words: int32 tensor of shape (keys, 4), see `entry_words`; the ranges may not cross a multiple of 2^32.
        count: Number of indices, at most `block_size(words.device)`.
        folded: Whether all ranges start at 0 and the words were computed with `folded=True`.

    Returns:
        int32 tensor of shape (keys, count).
    """
    first, second, start, _ = words.unsqueeze(-1).unbind(1)
    if folded:
        x = folded_indices(words.device)[:count] ^ first
        return _finish_(x, torch.empty_like(x), second)
    x = start + torch.arange(count, dtype=torch.int32, device=words.device) ^ first
    scratch = torch.empty_like(x)
    return _finish_(_xor_shift_(x, scratch, 0), scratch, second)


@cache
def folded_indices(device: torch.device) -> Tensor:
    """Return the first step of the hash, which is linear in the bits of the index, for one block with key 0.

    With this table, whose block begins at a multiple of its size, the first step of any index is one xor: the bits
    of `start + i` are those of `start` and those of `i`.
    """
    x = torch.arange(block_size(device), dtype=torch.int32, device=device)
    return _xor_shift_(x, torch.empty_like(x), 0)


def _finish_(x: Tensor, scratch: Tensor, second: Tensor | int) -> Tensor:
    """Finish a hash after its first xor and shift; the result is shifted to the range of int32."""
    x.mul_(signed(MULTIPLIERS[0])).bitwise_xor_(second)
    _xor_shift_(x, scratch, 1).mul_(signed(MULTIPLIERS[1]))
    _xor_shift_(x, scratch, 2)
    lowest = _lowest(x.device)
    return torch.add(lowest, x, alpha=signed(MULTIPLIERS[2]), out=x)  # product and shift in one pass


@cache
def _lowest(device: torch.device) -> Tensor:
    return torch.full((), -(1 << 31), dtype=torch.int32, device=device)


def _xor_shift_(x: Tensor, scratch: Tensor, stage: int) -> Tensor:
    shift = SHIFTS[stage]
    torch.bitwise_right_shift(x, shift, out=scratch)
    scratch.bitwise_and_((1 << (32 - shift)) - 1)  # int32 shifts copy the sign bit: clear the copies
    return x.bitwise_xor_(scratch)


def _fold(word: int) -> int:
    return word ^ word >> SHIFTS[0]


def _words(key: int, high_index: int) -> tuple[int, int]:
    """Split a key into two words; for an index beyond 2^32, its high word selects another key."""
    if high_index:
        key = derive_key(key, high_index)
    return key % WORD, key // WORD


def signed(word: int) -> int:
    """Return the int32 that has the bits of a word."""
    return word - WORD if word >= WORD // 2 else word
