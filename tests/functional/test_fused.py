import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from lightning_sparsegrad.functional import _fused as fused
from lightning_sparsegrad.functional import derive_key, hash_index, keep_mask, mask_entries_
from tests.cases import cases
from tests.nasty import FLOATS, assert_same_bits, clones

KEY = derive_key("fused")
NASTY = (float("inf"), float("-inf"), float("nan"), 0.0, -0.0, 1e-40, -1e-7, 60000.0)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*"),  # of the compiler's own; ours are caught where they are expected
    pytest.mark.timeout(600),  # a first compilation includes precompiling torch's headers
]


def gradient(count: int, dtype: torch.dtype, *, offset: int = 0) -> Tensor:
    tensor = torch.randn(count + offset, generator=torch.Generator().manual_seed(count)).to(dtype)
    for position, value in enumerate(NASTY):
        tensor[offset + position * 1000 :: 8011] = value
    return tensor[offset:]


def by_kernel(tensor: Tensor, start: int, threshold: int) -> list[tuple[int, Tensor]] | None:
    words = fused.fused_words(tensor, start, KEY, threshold)
    assert words is not None
    return fused.fused_mask_(tensor, start, torch.tensor(words, dtype=torch.int32), 1.0)


def compiled_graphs() -> int:
    graphs: int = counters["stats"]["unique_graphs"]
    return graphs


@pytest.fixture
def only_fused(monkeypatch):
    """Fail where the kernel hands its work to the eager path."""

    def refuse(error: Exception) -> None:
        raise AssertionError(error)

    monkeypatch.setattr(fused, "_warn", refuse)


@cases("rescale", [False, True], ids=["plain", "rescaled"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, *(pytest.param(each, marks=pytest.mark.long) for each in FLOATS if each != torch.float32)]
)
def test_the_kernel_gives_the_bits_of_the_eager_path(only_fused, dtype, rescale):
    tensors = [gradient(count, dtype) for count in (8193, 9216, 50_000, 300_000, 1 << 19)]
    tensors += [gradient(20_000, dtype, offset=1), gradient(30_000, dtype).view(3, 100, 100), gradient(64, dtype)]
    keys, rates = range(len(tensors)), [0.2, 0.5, 0.9, 1e-4, 1 - 1e-4, 0.3, 1 / 3, 0.5]
    eager, compiled = clones(tensors), clones(tensors)
    mask_entries_(eager, keys, rates, rescale=rescale)
    mask_entries_(compiled, keys, rates, rescale=rescale, fused=True)
    assert_same_bits(compiled, eager)
    assert not torch.equal(eager[0], tensors[0])


def test_the_kernel_does_the_work(monkeypatch):
    tensor = torch.ones(10 * 1024 + 5)
    left = by_kernel(tensor, 0, 1 << 31)
    assert left is not None
    assert [(start, part.numel()) for start, part in left] == [(0, 0), (10 * 1024, 5)]
    assert torch.equal(tensor[: 10 * 1024].bool(), keep_mask((10 * 1024,), KEY, 0.5))
    assert tensor[10 * 1024 :].all()


@cases("start", [3, 1024, 70_001, (1 << 31) - 2000, (1 << 32) - 5000])
def test_the_kernel_masks_a_part_of_a_tensor_by_the_index_in_the_whole(start):
    count = min(20 * 1024, (1 << 32) - start)
    tensor = torch.ones(count)
    left = by_kernel(tensor, start, 1 << 31)
    assert left is not None
    for begin, part in left:
        assert part.numel() < 1024
        assert part.all()
        part.mul_(keep_mask(part.shape, KEY, 0.5, start=begin))
    assert torch.equal(tensor.bool(), keep_mask((count,), KEY, 0.5, start=start))


def test_an_entry_whose_hash_is_the_threshold_is_kept():
    threshold = hash_index(KEY, 77)
    tensor = torch.ones(10 * 1024)
    assert by_kernel(tensor, 0, threshold)
    assert tensor[77] == 1
    assert by_kernel(tensor, 0, threshold + 1)
    assert tensor[77] == 0


@cases("rate", [1.0, 1 - 2**-40])
def test_rate_one_drops_all(rate):
    tensor = torch.full((20_000,), 2.0)
    mask_entries_([tensor], [KEY], [rate], fused=True)
    assert not tensor.any()


def test_shapes_rates_and_keys_share_one_compilation(only_fused):
    mask_entries_([torch.ones(10_000)], [1], [0.5], fused=True)
    before = compiled_graphs()
    for step in range(4):
        tensors = [torch.ones(9_000 + 1_024 * step), torch.ones(40, 300 + step), torch.ones(1 << 20)]
        mask_entries_(tensors, [step, 2, 3], [0.1 * step, 0.5, 0.7], rescale=step % 2 == 1, fused=True)
    assert compiled_graphs() == before


def test_other_layouts_go_the_eager_way():
    tensor = torch.ones(300, 200).T
    assert fused.fused_words(tensor, 0, KEY, 1 << 31) is None
    mask_entries_([tensor], [KEY], [0.5], fused=True)
    assert torch.equal(tensor.bool(), keep_mask((200, 300), KEY, 0.5))


# ---------------------------------------------------------------- where nothing can be compiled
MESSAGE = "Masks are computed without their compiled kernel, with the same result but slower: "


def test_where_compiled_code_may_not_run_a_warning_and_the_same_bits():
    mask_entries_([torch.ones(10_000)], [1], [0.5], fused=True)  # compiled before
    tensor = torch.ones(20_000)
    with torch.compiler.set_stance("force_eager"), pytest.warns(UserWarning, match=MESSAGE):
        mask_entries_([tensor], [KEY], [0.5], fused=True)
    assert torch.equal(tensor.bool(), keep_mask((20_000,), KEY, 0.5))


@pytest.mark.long
@cases("broken", [{"TORCH_COMPILE_DISABLE": "1"}, {"CXX": "no-such-compiler"}], ids=["off", "broken"])
def test_a_process_without_compiler_warns_in_one_line_and_masks_alike(broken, tmp_path):
    program = (
        "import torch\n"
        "from lightning_sparsegrad.functional import keep_mask, mask_entries_\n"
        "tensors = [torch.ones(20_000) for _ in range(3)]\n"
        "for _ in range(2): mask_entries_(tensors, [1, 2, 3], [0.5] * 3, fused=True)\n"
        "assert torch.equal(tensors[1].bool(), keep_mask((20_000,), 2, 0.5))\n"
    )
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), **broken}
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.count(MESSAGE) == 1, done.stderr


def test_a_kernel_with_other_masks_is_not_used(monkeypatch):
    def wrong(rows: Tensor, *_: Tensor) -> None:
        rows.mul_(2)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: wrong)
    with pytest.warns(UserWarning, match=f"{MESSAGE}its masks differ"):
        assert fused._checked_kernel.__wrapped__(torch.device("cpu"), torch.float32) is None
