"""Kernels of Triton over lists, run by its interpreter on a CPU: the bits of plain torch, or no change at all."""

import importlib
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sparsegrad.functional import _triton, clipping
from lightning_sparsegrad.functional.hashing import WORD, derive_key, hash_index, keep_threshold
from lightning_sparsegrad.functional.masking import mask_entries_

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy, at infinity * 0

KERNELS = "lightning_sparsegrad.functional._triton_kernels"
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SIZES = [0, 1, 3, 2047, 2048, 2049, 5000]


@pytest.fixture
def kernels(monkeypatch):
    """The kernels, interpreted, with a CPU taken for an accelerator."""
    pytest.importorskip("triton", reason="Triton comes with torch for CUDA only")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(_triton, "_DEVICES", ("cpu",))
    round_as_a_card_does(monkeypatch)
    monkeypatch.delitem(sys.modules, KERNELS, raising=False)
    _triton._is_checked.cache_clear()
    yield importlib.import_module(KERNELS)
    sys.modules.pop(KERNELS, None)
    _triton._is_checked.cache_clear()


def round_as_a_card_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter round to bfloat16 as `cvt.rn` does on a card; by itself it cuts the bits off."""
    interpreter = importlib.import_module("triton.runtime.interpreter")
    cast = interpreter.InterpreterBuilder.cast_impl

    def rounded(self, source, target):
        handle = cast(self, source, target)
        if (source.dtype.scalar.name, target.scalar.name) == ("fp32", "bf16"):
            handle.data = torch.from_numpy(source.data).bfloat16().view(torch.uint16).numpy()
        return handle

    monkeypatch.setattr(interpreter.InterpreterBuilder, "cast_impl", rounded)
    for name in ("create_fp_trunc", "create_fp_ext"):
        monkeypatch.setattr(interpreter.InterpreterBuilder, name, rounded)


def make_gradients(dtype: torch.dtype, offset: int) -> list[Tensor]:
    """Return gradients that begin `offset` entries after a boundary, some not finite."""
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(size + offset, generator=generator).to(dtype)[offset:] for size in SIZES]
    gradients[-1][:4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    return gradients


def masked(gradient: Tensor, start: int, key: int, threshold: int, factor: float) -> Tensor:
    """Return what the mask makes of a gradient, entry by entry."""
    hashes = [hash_index(key, start + index) for index in range(gradient.numel())]
    keep = torch.tensor([each >= threshold for each in hashes], dtype=torch.bool)
    return (gradient * keep).mul_(factor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("start", [0, 12345, WORD - 1000, 3 * WORD + 7])
def test_masks_are_those_of_torch(kernels, dtype, offset, start):
    gradients = make_gradients(dtype, offset)
    keys = [derive_key("mask", index) for index in range(len(gradients))]
    thresholds = [keep_threshold(rate) for rate in (0.5, 1 - 2**-32, 2**-32, 0.1, 0.9, 0.3, 0.5)]
    factors = [1.0, 3.7, 1 / 3, 1.1, 1.0, 10.0, 1 / 0.7]
    starts = [start + index for index in range(len(gradients))]
    expected = [masked(*each) for each in zip(gradients, starts, keys, thresholds, factors, strict=True)]
    assert _triton.mask_list_(gradients, starts, keys, thresholds, factors)
    for gradient, value in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1])
def test_factors_are_those_of_torch(kernels, dtype, offset):
    gradients = make_gradients(dtype, offset)
    factors = torch.tensor([0.5, 1.0, 1 / 3, 0.123, torch.nan, 0.0, 0.7])
    expected = [
        (gradient.to(_triton._math(dtype)) * factor.to(_triton._math(dtype))).to(dtype)
        for gradient, factor in zip(gradients, factors, strict=True)
    ]
    assert _triton.scale_list_(gradients, factors)
    for gradient, value in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=0, atol=0, equal_nan=True)


def test_neighbours_stay_and_the_version_tells_of_the_change(kernels):
    whole = torch.ones(5000)
    middle = whole[1:-1]
    version = whole._version
    assert _triton.scale_list_([middle], torch.tensor([0.5]))
    assert whole[0] == 1
    assert whole[-1] == 1
    assert middle.eq(0.5).all()
    assert whole._version > version


def test_masks_of_an_engine_are_the_same_through_the_kernel(kernels, monkeypatch):
    keys, rates = [derive_key("mask", index) for index in range(len(SIZES))], [0.5] * len(SIZES)
    listed, eager = make_gradients(torch.float32, 0), make_gradients(torch.float32, 0)
    done = []

    def recorded(*columns: Any) -> bool:
        done.append(_triton.mask_list_(*columns))
        return done[-1]

    monkeypatch.setattr("lightning_sparsegrad.functional.masking.mask_list_", recorded)
    mask_entries_(listed, keys, rates, rescale=True, fused=True)
    mask_entries_(eager, keys, rates, rescale=True)
    assert done == [True]
    for one, other in zip(listed, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_factors_of_tensors_of_several_kinds_go_through_the_kernel_where_it_reaches(kernels):
    strided, tensors = torch.ones(4, 6)[:, ::2], [torch.ones(5), torch.ones(3, dtype=torch.float64), torch.ones(2000)]
    scales = torch.tensor([0.5, 0.25, 1.0, 0.125]).unbind()
    left, own = clipping._scale_lists_([*tensors, strided], scales)
    assert [{*tensor.tolist()} for tensor in tensors] == [{0.5}, {0.25}, {1.0}]
    assert len(left) == len(own) == 1
    assert left[0] is strided
    assert float(own[0]) == 0.125


def test_a_wrong_kernel_changes_no_gradient(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "mask_kernel", {}.get)  # not a kernel
    gradient = torch.ones(10)
    with pytest.warns(UserWarning, match="without kernels of Triton"):
        assert not _triton.mask_list_([gradient], [0], [1], [WORD // 2], [1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not _triton.scale_list_([gradient], torch.tensor([0.5]))
    assert gradient.eq(1).all()


def test_a_kernel_with_other_bits_is_not_used(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "mask_kernel", kernels.mask_kernel)
    monkeypatch.setattr(_triton, "hash_index", lambda key, index: hash_index(key, index + 1))
    gradient = torch.ones(10)
    with pytest.warns(UserWarning, match="differ"):
        assert not _triton.mask_list_([gradient], [0], [1], [WORD // 2], [1.0])
    assert gradient.eq(1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", ["scale_kernel", "mask_kernel"])
@pytest.mark.parametrize("access", ["tl.load(entries)", "tl.load(entries, mask=inside)"], ids=["whole", "ends"])
def test_a_kernel_wrong_in_whole_blocks_or_at_the_ends_is_not_used(
    kernels, monkeypatch, tmp_path, dtype, kernel, access
):
    head, name, body = Path(kernels.__file__).read_text().partition(f"def {kernel}(")
    assert access in body
    path = tmp_path / "wrong_kernels.py"
    path.write_text(head + name + body.replace(access, f"(-{access})", 1))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wrong_kernels", raising=False)
    wrong = importlib.import_module("wrong_kernels")
    monkeypatch.setattr(_triton, "_kernels", lambda: wrong)
    gradient = torch.ones(10, dtype=dtype)
    with pytest.warns(UserWarning, match="differ"):
        assert not _triton.scale_list_([gradient], torch.tensor([0.5]))
    assert gradient.eq(1).all()


def test_other_lists_are_left_to_the_caller(kernels):
    matrix = torch.ones(4, 4)
    assert not _triton.scale_list_([matrix.t()[:2]], torch.ones(1))
    assert not _triton.scale_list_([matrix, matrix.double()], torch.ones(2))
    assert not _triton.scale_list_([], torch.ones(0))


def test_tables_of_any_alignment_run_the_binary_that_was_checked():
    pytest.importorskip("triton", reason="Triton comes with torch for CUDA only")
    code = (
        f"import {KERNELS} as kernels\n"
        "for kernel in kernels.mask_kernel, kernels.scale_kernel:\n"
        "    tables = [each for each in kernel.params if not each.is_constexpr]\n"
        "    assert len(tables) >= 3 and all(each.do_not_specialize_on_alignment for each in tables)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_stream_has_its_own_table_of_blocks():
    one, other = (_triton._blocks((2, 0, 1), torch.device("cpu"), stream) for stream in (1, 2))
    assert one is _triton._blocks((2, 0, 1), torch.device("cpu"), 1)
    assert one is not other
    assert one.tolist() == other.tolist() == [[0, 0], [0, 1], [2, 0]]


def test_tables_of_changing_lists_take_a_small_share_of_the_memory_of_the_gradients():
    for absent in range(100):
        counts = [1000] * 100
        counts[absent] = 0
        _triton._blocks(tuple(counts), torch.device("cpu"), 0)
    tables = _triton._blocks.cache_info().currsize * 8 * 99_000
    assert tables <= 0.01 * 100_000 * 2048 * 4


def test_a_cpu_never_imports_triton():
    code = (
        "import sys, torch; from lightning_sparsegrad.functional import _triton\n"
        "assert not _triton.scale_list_([torch.ones(3)], torch.ones(1)); assert 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
