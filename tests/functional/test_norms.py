"""Norms against float64: exact to 1e-6 at any size, and the same bits on any number of threads."""

from collections.abc import Iterator
from math import inf, nan, sqrt

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lightning_sparsegrad.functional import _norms as norms
from lightning_sparsegrad.functional import clip_components_, component_norms, tensor_norms
from tests.cases import cases
from tests.nasty import as_parameters, assert_equal, assert_same_bits, clones

EMBEDDINGS = 30_522 * 384  # of MiniLM


def _gradient(count: int, kind: str = "dense") -> Tensor:
    tensor = torch.randn(count, generator=torch.Generator().manual_seed(count)) * 1e-3
    if kind == "outliers":
        tensor[:: max(1, count // 100)] = 10.0
    if kind == "one outlier":
        tensor[0] = 200.0
    if kind == "mostly zeros":
        tensor[count // 50 :] = 0
    return tensor


def _exact(tensors: list[Tensor]) -> float:
    return sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads after a test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@cases("count", [1, 1024, 2048, 2049, 40_000, 147_456, 589_824, EMBEDDINGS], ids=str)
@cases("kind", ["dense", "outliers", "one outlier", "mostly zeros"])
def test_a_norm_is_within_1e_6_of_the_float64_norm(count: int, kind: str):
    tensor = _gradient(count, kind)
    assert component_norms([tensor], [1]).item() == pytest.approx(_exact([tensor]), rel=1e-6, abs=0)


@cases("count", [768, 1_024, 2_000, 2_304, 5_000], ids=str)
@cases("is_contiguous", [True, False], ids=["contiguous", "every other entry"])
def test_a_norm_is_as_exact_whatever_the_rest_is_beside_one_outlier(count: int, is_contiguous: bool):
    rest = torch.randn(count, generator=torch.Generator().manual_seed(count))
    for scale in (1e-1, 1e-2, 3e-3, 1e-3, 5e-4, 3e-4, 2.5e-4, 2e-4, 1.5e-4, 1e-4):
        tensor = rest * scale
        tensor[0] = 1.0
        if not is_contiguous:
            tensor = torch.stack([tensor, tensor], dim=1)[:, 0]
        assert component_norms([tensor], [1]).item() == pytest.approx(_exact([tensor]), rel=1e-6, abs=0), scale


@cases("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@cases("count", [3_000, (1 << 18) + 100], ids=str)
def test_other_dtypes_are_as_exact(dtype: torch.dtype, count: int):
    tensor = (_gradient(count, "outliers") * 100).to(dtype)
    norm = component_norms([tensor], [1])
    assert norm.dtype == torch.promote_types(dtype, torch.float32)
    assert norm.item() == pytest.approx(_exact([tensor]), rel=1e-6, abs=0)


def test_a_component_of_many_tensors_is_as_exact():
    tensors = [torch.tensor(10.0)] + [torch.full((), 1e-3 + 1e-6 * (index % 7)) for index in range(20_000)]
    assert component_norms(tensors, [len(tensors)]).item() == pytest.approx(_exact(tensors), rel=1e-7, abs=0)
    tensors = [_gradient(5_000), _gradient(3), _gradient(700_000, "outliers")]
    norms_of_both = component_norms(tensors, [2, 1]).tolist()
    assert norms_of_both == pytest.approx([_exact(tensors[:2]), _exact(tensors[2:])], rel=1e-6, abs=0)


def test_the_bits_do_not_depend_on_the_number_of_threads(threads: None):
    tensors = [_gradient(count, "outliers") for count in (700, 5_000, 147_456, 589_824, 1_000_003)]
    results = []
    for count in (1, 2, 3, 8, 16):
        torch.set_num_threads(count)
        assert torch.get_num_threads() == count
        results.append([component_norms(tensors, [1] * len(tensors)), component_norms(tensors, [5])])
    for result in results[1:]:
        assert_same_bits(result, results[0])


@cases("layout", ["transposed", "every other column", "middle columns", "groups of rows", "one long row"])
@cases("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_layout_is_as_exact(layout: str, dtype: torch.dtype):
    whole = _gradient(600 * 3_000, "outliers").to(dtype)
    tensor = {
        "transposed": whole.view(600, 3_000).T,
        "every other column": whole.view(600, 3_000)[:, ::2],
        "middle columns": whole.view(600, 3_000)[:, 1_000:2_000],
        "groups of rows": whole.view(12, 3, 50, 1_000)[:, 1],
        "one long row": whole.view(1, -1)[:, ::3],
    }[layout]
    assert not tensor.is_contiguous()
    before = tensor.clone()
    assert component_norms([tensor], [1]).item() == pytest.approx(_exact([tensor]), rel=1e-6, abs=0)
    assert_same_bits([tensor], [before])


@cases("value", [inf, -inf, nan], ids=str)
@cases("at", [0, 1_023, 4_096, 4_999], ids=str)
def test_an_entry_that_is_not_finite_shows_in_the_norm(value: float, at: int):
    tensor = _gradient(5_000)
    tensor[at] = value
    norm = component_norms([tensor, _gradient(4_000)], [1, 1])
    assert_equal([norm[0]], [torch.tensor(nan if value != value else inf)])
    assert norm[1].isfinite()


def test_large_tensors_are_cut_in_their_own_order_among_small_ones():
    tensors = [_gradient(count) for count in (10_000, 5, 3_000, 0, 70_000, 1)]
    assert tensor_norms(tensors).tolist() == pytest.approx([_exact([tensor]) for tensor in tensors], rel=1e-6, abs=0)


# ---------------------------------------------------------------- torch's own norm
@cases("norm_type", [2.0, inf], ids=str)
def test_torchs_own_norm_clips_to_the_last_bit_of_clip_grad_norm_(norm_type: float):
    tensors = [_gradient(count, "outliers") for count in (7, 5_000, 147_456, 589_824)]
    parameters = as_parameters(tensors)
    total = clip_grad_norm_(parameters, 0.5, norm_type=norm_type)
    mine, _ = clip_components_(tensors, [4], [0.5], norm_type=norm_type, norm="torch")
    assert_same_bits([*tensors, mine], [*(p.grad for p in parameters if p.grad is not None), total.reshape(1)])


def test_torchs_own_norm_by_tensor_is_the_authors_loop_to_the_last_bit():
    tensors = [_gradient(count, "outliers") for count in (7, 5_000, 147_456, 589_824)]
    parameters, blockwise = as_parameters(tensors), clones(tensors)
    for parameter in parameters:
        clip_grad_norm_([parameter], 0.5)
    clip_components_(tensors, [1] * 4, [0.5] * 4, norm="torch")
    assert_same_bits(tensors, [parameter.grad for parameter in parameters if parameter.grad is not None])
    clip_components_(blockwise, [1] * 4, [0.5] * 4)
    assert not torch.equal(blockwise[3], tensors[3])  # or this test could not tell one norm from the other


def test_tensors_of_one_block_have_torchs_norm():
    tensor = _gradient(norms._SMALL)
    assert_same_bits([component_norms([tensor], [1])], [component_norms([tensor], [1], norm="torch")])
