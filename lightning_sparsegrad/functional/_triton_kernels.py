"""Two Triton kernels over lists of tensors. Only `_triton` imports this module, and only for an accelerator.

A program works on one block of one span, a range of entries of a tensor. Blocks begin at 16-byte boundaries, wherever
the span begins, so that all but the first and the last block of a span are read and written in 128-bit accesses.
"""

# ruff: noqa: ANN001, ANN202, N803  # Triton compiles the annotations, and constants are in capitals
import triton
import triton.language as tl

from lightning_sparsegrad.functional.hashing import MULTIPLIERS, SHIFTS

BLOCK = 2048  # entries: 16 for each thread of 4 warps
_M0, _M1, _M2 = (tl.constexpr(multiplier) for multiplier in MULTIPLIERS)
_S0, _S1, _S2 = (tl.constexpr(shift) for shift in SHIFTS)
_TABLES = ["spans", "words", "factors", "blocks"]  # aligned or not, they make no other binary


@triton.jit(do_not_specialize_on_alignment=_TABLES)
def scale_kernel(spans, factors, blocks, DTYPE: tl.constexpr, MATH: tl.constexpr, SIZE: tl.constexpr):
    """Multiply each span by its factor; a span whose factor is 1 is not read.

    Args:
        spans: int64, a row (address rounded down, entries to leave out at the front, end) per span.
        factors: A factor per span, in `MATH`.
        blocks: int32, a row (span, number of the block in it) per program.
        DTYPE: Dtype of the entries.
        MATH: Dtype of the product.
        SIZE: Entries of a block.
    """
    block = blocks + 2 * tl.program_id(0)
    span, number = tl.load(block), tl.load(block + 1)
    row = spans + 3 * span
    pointer = tl.multiple_of(tl.load(row).to(tl.pointer_type(DTYPE)), 16)
    front, end = tl.load(row + 1), tl.load(row + 2)
    factor = tl.load(factors + span)
    begin = number.to(tl.int64) * SIZE
    entries = pointer + begin + tl.arange(0, SIZE)
    if factor != 1.0:
        if (begin >= front) & (begin + SIZE <= end):
            tl.store(entries, (tl.load(entries).to(MATH) * factor).to(DTYPE))
        else:
            index = begin + tl.arange(0, SIZE)
            inside = (index >= front) & (index < end)
            tl.store(entries, (tl.load(entries, mask=inside).to(MATH) * factor).to(DTYPE), mask=inside)


@triton.jit(do_not_specialize_on_alignment=_TABLES)
def mask_kernel(spans, words, factors, blocks, DTYPE: tl.constexpr, MATH: tl.constexpr, SIZE: tl.constexpr):
    """Multiply each entry by the factor of its span, or by zero if the hash of its index is below the threshold.

    Args:
        spans: As for `scale_kernel`.
        words: int64, a row (low word of the key, high word, index of the entry at the address, threshold) per span.
        factors: As for `scale_kernel`.
        blocks: As for `scale_kernel`.
        DTYPE: Dtype of the entries.
        MATH: Dtype of the product.
        SIZE: Entries of a block.
    """
    block = blocks + 2 * tl.program_id(0)
    span, number = tl.load(block), tl.load(block + 1)
    row, word = spans + 3 * span, words + 4 * span
    pointer = tl.multiple_of(tl.load(row).to(tl.pointer_type(DTYPE)), 16)
    front, end = tl.load(row + 1), tl.load(row + 2)
    first, second = tl.load(word).to(tl.uint32), tl.load(word + 1).to(tl.uint32)
    begin = number.to(tl.int64) * SIZE
    x = (tl.load(word + 2) + begin).to(tl.uint32) + tl.arange(0, SIZE).to(tl.uint32) ^ first
    x = (x ^ (x >> _S0)) * _M0 ^ second
    x = (x ^ (x >> _S1)) * _M1
    x = (x ^ (x >> _S2)) * _M2
    factor = tl.where(x >= tl.load(word + 3).to(tl.uint32), tl.load(factors + span), 0.0)
    entries = pointer + begin + tl.arange(0, SIZE)
    if (begin >= front) & (begin + SIZE <= end):
        tl.store(entries, (tl.load(entries).to(MATH) * factor).to(DTYPE))
    else:
        index = begin + tl.arange(0, SIZE)
        inside = (index >= front) & (index < end)
        tl.store(entries, (tl.load(entries, mask=inside).to(MATH) * factor).to(DTYPE), mask=inside)
