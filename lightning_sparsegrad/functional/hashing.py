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
    shifts of ``triple32``. Its closing ``x ^= x >> 14`` is left out: it changes low bits only, and entries are told
    apart by comparing the whole word with a threshold.
"""

from hashlib import blake2b

import torch
from torch import Tensor

_MULTIPLIERS = (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)
_SHIFTS = (17, 11, 15)
_WORD = 1 << 32


def derive_key(*parts: str | int | None) -> int:
    """Return the 64-bit key of a tuple of names and numbers, the same on every machine and in every process.

    Args:
        *parts: What the key stands for, e.g. class name, seed, parameter name and resample index. Order and type
            matter: `1` and `"1"` give different keys.

    Example:
        >>> hex(derive_key("GradDrop", 0, "encoder.weight", 7))
        '0xee1e67d996f5e60a'
    """
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def keep_threshold(rate: float) -> int:
    """Return the smallest hash that is kept at a drop rate, in [0, 2^32]: entries below it are dropped.

    Args:
        rate: Expected fraction of dropped entries, in [0, 1]. It is resolved to multiples of 2^-32.
    """
    return round(rate * _WORD)


def hash_index(key: int, index: int) -> int:
    """Return the 32 random bits of one index as an integer in [0, 2^32).

    Args:
        key: 64-bit key, see `derive_key`.
        index: Position, in [0, 2^64).
    """
    first, second = _words(key, index // _WORD)
    x = (index % _WORD) ^ first
    x = (x ^ x >> _SHIFTS[0]) * _MULTIPLIERS[0] % _WORD ^ second
    x = (x ^ x >> _SHIFTS[1]) * _MULTIPLIERS[1] % _WORD
    return (x ^ x >> _SHIFTS[2]) * _MULTIPLIERS[2] % _WORD


def hash_entries(key: int, start: int, count: int, device: torch.device) -> Tensor:
    """Return the hashes of indices `start` to `start + count - 1`, shifted to the range of int32.

    Args:
        key: 64-bit key, see `derive_key`.
        start: First index, in [0, 2^64). The range may not cross a multiple of 2^32.
        count: Number of indices, in [0, 2^31].
        device: Where to compute.

    Returns:
        int32 tensor of shape (count,): `hash_index(key, i) - 2**31`, so that the order of the hashes is kept.
    """
    first, second = _words(key, start // _WORD)
    x = torch.arange(count, dtype=torch.int32, device=device)
    x.add_(_signed(start % _WORD)).bitwise_xor_(_signed(first))
    scratch = torch.empty_like(x)
    _xor_shift_multiply_(x, scratch, 0).bitwise_xor_(_signed(second))
    _xor_shift_multiply_(x, scratch, 1)
    return _xor_shift_multiply_(x, scratch, 2).bitwise_xor_(-(1 << 31))


def _xor_shift_multiply_(x: Tensor, scratch: Tensor, stage: int) -> Tensor:
    shift = _SHIFTS[stage]
    torch.bitwise_right_shift(x, shift, out=scratch)
    scratch.bitwise_and_((1 << (32 - shift)) - 1)  # int32 shifts copy the sign bit down: take the copies out
    return x.bitwise_xor_(scratch).mul_(_signed(_MULTIPLIERS[stage]))


def _words(key: int, high_index: int) -> tuple[int, int]:
    """Split a key into two words; an index beyond 2^32 selects another key by its high word."""
    if high_index:
        key = derive_key(key, high_index)
    return key % _WORD, key // _WORD


def _signed(word: int) -> int:
    return word - _WORD if word >= _WORD // 2 else word
