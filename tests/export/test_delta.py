"""Deltas: what of a base model has changed, stored in a file and loaded bit by bit."""

import json
import struct
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_sparsegrad import ConfigurationError, load_delta, save_delta
from lightning_sparsegrad.export import _bits
from tests.cases import cases
from tests.engine.test_models import process_group as process_group
from tests.tiny import compiled, tiny_bert, tiny_gpt2, tiny_t5

PATH = Path("a.safetensors")
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.bool, torch.complex64),
)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits; -0.0 is not 0.0, and a NaN is itself."""
    kind = BITS[one.element_size()]
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and torch.equal(one.reshape(-1).view(kind), other.reshape(-1).view(kind))


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(equal(states[0][name], states[1][name]) for name in states[0])


def changed(base: Any, change: Callable[[dict[str, Tensor]], object]) -> Any:
    model = deepcopy(base)
    with torch.no_grad():
        change(dict(model.state_dict()))
    return model


def net(*sizes: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(*pair) for pair in pairwise(sizes))).to(dtype)


def few(state: dict[str, Tensor]) -> None:
    state["0.weight"][1, 2] = 7.0
    state["0.weight"][4, 0] = -0.0
    state["1.bias"][0] = 3.0


def store(model: Any, base: Any) -> None:
    PATH.unlink(missing_ok=True)
    save_delta(model, base, PATH)


def written(base: nn.Module, change: Callable[[dict[str, Tensor]], object] = few) -> nn.Module:
    model: nn.Module = changed(base, change)
    store(model, base)
    return model


def header() -> tuple[dict[str, Any], bytes]:
    raw = PATH.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


# ---------------------------------------------------------------- what is stored, and what is loaded
def test_the_changed_entries_of_a_tensor_are_stored() -> None:
    base = net(6, 5, 3)
    model = written(base)
    tensors = load_file(PATH)
    assert sorted(tensors) == ["index:0.weight", "index:1.bias", "value:0.weight", "value:1.bias"]
    assert tensors["index:0.weight"].tolist() == [8, 24]
    assert tensors["index:0.weight"].dtype == torch.int32
    assert tensors["value:0.weight"].tolist() == [7.0, 0.0]
    fresh = net(6, 5, 3)
    assert load_delta(fresh, PATH) is fresh
    assert same(fresh, model)
    assert not same(fresh, base)


@cases("dtype", DTYPES)
def test_bits_of_any_dtype(dtype: torch.dtype) -> None:
    width = dtype.itemsize
    before = torch.arange(40 * width, dtype=torch.uint8)
    after = before.clone()
    after[7 * width :: 16 * width] ^= 128  # of three entries
    if dtype == torch.bool:
        before %= 2
        after = before.clone()
        after[7::16] ^= 1
    base, model = before.view(dtype).reshape(5, 8), after.view(dtype).reshape(5, 8)
    store({"x": model}, {"x": base})
    assert load_file(PATH)["index:x"].tolist() == [7, 23, 39]
    target = nn.Module()
    target.register_buffer("x", base.clone())
    load_delta(target, PATH)
    assert equal(target.state_dict()["x"], model)


def test_tensors_of_several_dtypes_in_a_file() -> None:
    model = {
        "a": torch.ones(3, dtype=torch.uint8),
        "b": torch.ones(3).half(),
        "c": torch.ones(1).double(),
        "d": torch.ones(1),
    }
    store(model, {name: torch.zeros_like(tensor) for name, tensor in model.items()})
    target = nn.Module()
    for name, tensor in model.items():
        target.register_buffer(name, torch.zeros_like(tensor))
    load_delta(target, PATH)
    assert all(equal(value, model[name]) for name, value in target.state_dict().items())
    starts = {name: entry["data_offsets"][0] for name, entry in header()[0].items() if name != "__metadata__"}
    assert all(start % model[name.partition(":")[2]].itemsize == 0 for name, start in starts.items())


def test_signs_of_zero_and_payloads_of_nan_are_bits() -> None:
    base = torch.tensor([0.0, -0.0, float("nan"), float("nan"), float("inf")] * 4)
    model = base.clone()
    model[0] = -0.0
    model.view(torch.int32)[2] = 0x7FA00001  # a signalling NaN of another payload
    model[13] = 0.5
    store({"x": model}, {"x": base})
    assert load_file(PATH)["index:x"].tolist() == [0, 2, 13]
    target = nn.ParameterDict({"x": base.clone()})
    load_delta(target, PATH)
    assert equal(target["x"], model)
    model.view(torch.int32)[3:] = 0x7F800003
    store({"x": model}, {"x": base})
    assert list(load_file(PATH)) == ["whole:x"]
    load_delta(target, PATH)
    assert equal(target["x"], model)


def test_chunks_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bits, "CHUNK", 7)
    base = net(9, 8, 3)

    def change(state: dict[str, Tensor]) -> None:
        state["0.weight"].view(-1)[::5] += 1
        state["1.weight"] += 1

    model = written(base, change)
    assert load_file(PATH)["index:0.weight"].tolist() == list(range(0, 72, 5))
    assert same(load_delta(net(9, 8, 3), PATH), model)


def test_a_tensor_is_stored_whole_where_that_is_smaller() -> None:
    base = net(4, 4)
    one: dict[int, list[str]] = {}
    for count in range(17):

        def change(state: dict[str, Tensor], count: int = count) -> None:
            state["0.weight"].view(-1)[:count] += 1

        model = written(base, change)
        one[count] = sorted(load_file(PATH))
        assert same(load_delta(net(4, 4), PATH), model)
    assert [len(one[count]) for count in (0, 1, 7, 8, 16)] == [0, 2, 2, 1, 1]
    assert one[8] == ["whole:0.weight"]


def test_what_the_base_lacks_is_stored_whole() -> None:
    base = {"a": torch.zeros(3), "b": torch.zeros(2, 2), "c": torch.zeros(4)}
    model = {"a": torch.zeros(3), "b": torch.zeros(3, 2), "d": torch.tensor(2.0), "c": torch.zeros(4, dtype=torch.int)}
    store(model, base)
    assert sorted(load_file(PATH)) == ["whole:b", "whole:c", "whole:d"]
    target = nn.Module()
    for name, tensor in model.items():
        target.register_buffer(name, torch.full_like(tensor, 9) if name != "a" else tensor.clone())
    load_delta(target, PATH)
    assert all(equal(value, model[name]) for name, value in target.state_dict().items())


def test_a_delta_of_nothing() -> None:
    base = net(3, 2)
    store(deepcopy(base), base)
    assert not load_file(PATH)
    assert same(load_delta(load_delta(net(3, 2), PATH), PATH), base)
    with pytest.raises(ConfigurationError, match="base model of the delta"):
        load_delta(changed(base, lambda state: state["0.bias"].fill_(0.5)), PATH)


def test_buffers_and_empty_tensors() -> None:
    base = nn.BatchNorm1d(20)
    base.register_buffer("none", torch.zeros(0, 3))
    model = deepcopy(base).train()
    model(torch.full((2, 20), 3.0).add(torch.arange(20) > 18))
    store(model, base)
    assert sorted(load_file(PATH)) == ["whole:num_batches_tracked", "whole:running_mean", "whole:running_var"]
    assert same(load_delta(deepcopy(base), PATH), model)


def test_tensors_of_any_layout_in_memory() -> None:
    convolution = nn.Conv2d(4, 6, 3)
    base = deepcopy(convolution)
    base.weight.data = base.weight.data.to(memory_format=torch.channels_last)

    def change(state: dict[str, Tensor]) -> None:
        state["weight"][1, 2, 0, 1] = 5.0

    model = written(base, change)
    assert load_file(PATH)["index:weight"].tolist() == [1 * 36 + 2 * 9 + 1]
    assert same(load_delta(deepcopy(convolution), PATH), model)
    assert same(load_delta(base, PATH), model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_base_counts_in_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    """As `precision="bf16-true"` converts it."""
    base = net(6, 5, 3)
    model = changed(net(6, 5, 3).to(dtype), few)
    store(model, base)
    assert sorted(load_file(PATH)) == ["index:0.weight", "value:0.weight", "whole:1.bias"]
    assert same(load_delta(net(6, 5, 3, dtype=dtype), PATH), model)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        ConfigurationError, match=rf"`0.weight` of {name}.* Found float32: load it with `dtype=\"{name}"
    ):
        load_delta(base, PATH)
    assert same(base, net(6, 5, 3))


def test_the_other_way_a_base_in_half_precision_counts_in_float32() -> None:
    base = net(6, 5, 3, dtype=torch.bfloat16)
    model = changed(deepcopy(base).float(), few)
    store(model, base)
    assert same(load_delta(deepcopy(base).float(), PATH), model)


# ---------------------------------------------------------------- tied tensors
def embedding_of(model: Any) -> Tensor:
    weight: Tensor = model.get_input_embeddings().weight
    return weight


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_t5], ids=["gpt2", "t5"])
def test_tied_tensors_are_stored_once(make: Callable[[], nn.Module]) -> None:
    base, model = make(), make()
    target: Any = make()
    with torch.no_grad():
        embedding_of(model)[3:5] += 1
    store(model, base)
    assert len(load_file(PATH)) == 2
    load_delta(target, PATH)
    assert same(target, model)
    assert target.lm_head.weight is embedding_of(target)


def test_tied_tensors_may_be_apart_in_the_model_or_in_the_base() -> None:
    def pair(*, tied: bool) -> Any:
        made: Any = nn.ModuleDict({"a": nn.Linear(5, 5, bias=False), "b": nn.Linear(5, 5, bias=False)})
        with torch.no_grad():
            for module in made.values():
                module.weight.copy_(torch.arange(25.0).view(5, 5))
        if tied:
            made["b"].weight = made["a"].weight
        return made

    for in_model in (True, False):
        for in_base in (True, False):
            model: Any = pair(tied=in_model)
            with torch.no_grad():
                for name in ("a", "b"):
                    model[name].weight[1, 1] = -3.0
            store(model, pair(tied=in_base))
            assert len(load_file(PATH)) == (2 if in_model else 4)
            for in_target in (True, False):
                assert same(load_delta(pair(tied=in_target), PATH), model)
    model = pair(tied=False)
    with torch.no_grad():
        model["b"].weight[1, 1] = -3.0
    store(model, pair(tied=True))
    assert same(load_delta(pair(tied=False), PATH), model)
    target = pair(tied=True)
    with pytest.raises(ConfigurationError, match=r"`b.weight` apart from `a.weight`"):
        load_delta(target, PATH)
    assert same(target, pair(tied=True))
    base = {name: value.clone() for name, value in model.state_dict().items()}
    store(model, base)  # a delta of nothing
    refused(target, r"`b.weight` apart from `a.weight`")


def test_tied_tensors_whose_base_has_two_values_are_stored_apart() -> None:
    tied = torch.arange(25.0)
    base = {"a": tied.clone(), "b": tied + 1}
    store({"a": tied, "b": tied}, base)
    assert list(load_file(PATH)) == ["whole:b"]
    target = nn.ParameterDict(base)
    load_delta(target, PATH)
    assert equal(target["a"], tied)
    assert equal(target["b"], tied)


def test_tied_tensors_of_which_the_base_has_the_second_name() -> None:
    tied = torch.arange(25.0)
    base = tied.clone()
    tied[3] = 7.0
    store({"a": tied, "b": tied}, {"b": base})
    assert sorted(load_file(PATH)) == ["index:b", "value:b"]
    target = nn.ParameterDict({"a": base.clone(), "b": base.clone()})
    load_delta(target, PATH)
    assert equal(target["a"], tied)
    assert equal(target["b"], tied)


def test_a_matrix_and_its_transpose_are_two_tensors() -> None:
    matrix = torch.zeros(5, 5)
    base = {"a": matrix.clone(), "b": matrix.clone()}
    matrix[1, 2] = 1.0
    store({"a": matrix, "b": matrix.T}, base)
    target = nn.ParameterDict(base)
    load_delta(target, PATH)
    assert equal(target["a"], matrix)
    assert equal(target["b"], matrix.T.contiguous())


def test_a_state_dict_without_the_names_of_tied_tensors() -> None:
    base, model = tiny_gpt2(), tiny_gpt2()
    with torch.no_grad():
        embedding_of(model)[3] += 1
    states = [
        {name: value for name, value in each.state_dict().items() if name != "lm_head.weight"} for each in (model, base)
    ]
    store(*states)
    assert same(load_delta(tiny_gpt2(), PATH), model)
    store(model, states[1])
    assert same(load_delta(tiny_gpt2(), PATH), model)


# ---------------------------------------------------------------- wrappers
class Task(LightningModule):
    def __init__(self, model: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.head = model, head


def test_a_task_stands_for_its_model() -> None:
    base = net(6, 5, 3)
    model = written(base)
    task = Task(net(6, 5, 3))
    load_delta(task, PATH)
    assert same(task.model, model)
    store(task, Task(net(6, 5, 3)))
    assert same(load_delta(net(6, 5, 3), PATH), model)


def test_a_task_with_more_than_a_model_keeps_its_names() -> None:
    task = Task(net(6, 5, 3), nn.Linear(2, 2))
    other = deepcopy(task)
    with torch.no_grad():
        assert isinstance(other.head, nn.Linear)
        other.head.bias.add_(1)
    store(other, task)
    assert list(load_file(PATH)) == ["whole:head.bias"]
    assert same(load_delta(task, PATH), other)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": compiled,
    "task": lambda model: Task(compiled(model)),
    "data parallel": nn.parallel.DistributedDataParallel,
    "task, data parallel": lambda model: nn.parallel.DistributedDataParallel(Task(model)),
    "data parallel, compiled": lambda model: compiled(nn.parallel.DistributedDataParallel(model)),
}


@cases("wrapper", WRAPPERS)
def test_wrappers_do_not_change_names(wrapper: str, process_group: None) -> None:
    model = written(net(6, 5, 3))
    target = net(6, 5, 3)
    load_delta(WRAPPERS[wrapper](target), PATH)
    assert same(target, model)
    store(WRAPPERS[wrapper](model), net(6, 5, 3))
    assert same(load_delta(net(6, 5, 3), PATH), model)


# ---------------------------------------------------------------- another base
def refused(target: nn.Module, pattern: str) -> None:
    before = deepcopy(target)
    with pytest.raises(ConfigurationError, match=pattern) as error:
        load_delta(target, PATH)
    assert same(target, before)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_another_base_is_refused_and_left_as_it_is() -> None:
    written(net(6, 5, 3))

    def last(state: dict[str, Tensor]) -> None:
        state["1.weight"][2, 4] += 1e-3

    def zero(state: dict[str, Tensor]) -> None:
        state["1.bias"][2] = 0.0

    base = net(6, 5, 3)
    refused(changed(base, last), r"base model of the delta.*Found other values in 1 of 4 tensors, `1.weight` first\.$")
    refused(nn.Sequential(base[0], base[1], nn.Linear(1, 1)), r"Found 2 that the delta does not know, `2.weight` first")
    refused(base[:1], r"Found 2 missing, `1.weight` first")
    refused(net(6, 4, 3), r"`0.weight` of shape \(5, 6\)\. Found \(4, 6\)")
    refused(base.double(), r"`0.weight` of float32\. Found float64: load it with `dtype=\"float32\"`")


def test_a_model_that_has_the_delta_is_refused_with_a_hint() -> None:
    model = written(net(6, 5, 3))
    refused(model, r"It has this delta already")
    further = deepcopy(model)
    with torch.no_grad():
        further.state_dict()["0.weight"][1, 2] += 1
    with pytest.raises(ConfigurationError) as error:
        load_delta(further, PATH)
    assert "already" not in str(error.value)


def test_shapes_and_dtypes_of_tensors_stored_whole() -> None:
    store({"x": torch.ones(3)}, {"x": torch.zeros(3)})
    target = nn.Module()
    target.register_buffer("x", torch.zeros(2))
    refused(target, r"`x` of shape \(3,\)\. Found \(2,\)")
    target.x = torch.zeros(3, dtype=torch.float16)
    refused(target, r"`x` of float32\. Found float16")


@pytest.mark.parametrize("device", ["meta"])
def test_tensors_without_data_are_refused(device: str) -> None:
    written(net(6, 5, 3))
    with pytest.raises(ConfigurationError, match=r"`0.weight` on `meta`"):
        load_delta(net(6, 5, 3).to(device), PATH)
    with pytest.raises(ConfigurationError, match=r"`0.weight` on `meta`"):
        save_delta(net(6, 5, 3).to(device), net(6, 5, 3), "b.safetensors")
    assert not Path("b.safetensors").exists()


def test_a_base_from_after_the_training_is_refused() -> None:
    """A state dict shares its memory with the model, which trains on."""
    model = net(2, 2)
    for base in (model, model.state_dict(), Task(model)):
        with pytest.raises(ConfigurationError, match=r"Parameter `base` .* Found one that shares its memory"):
            store(model, base)
    model.add_module("1", nn.Linear(2, 2))
    shared = nn.Sequential(model[0], nn.Linear(2, 2))
    store(model, shared)
    assert sorted(load_file(PATH)) == ["whole:1.bias", "whole:1.weight"]


def test_a_base_of_other_names_is_refused() -> None:
    state = {f"model.{name}": value for name, value in net(2, 2).state_dict().items()}
    for base in (state, {}):
        with pytest.raises(
            ConfigurationError, match=r"Parameter `base` .* Found one that has none of the model's names"
        ):
            store(net(2, 2), base)
    assert not PATH.exists()


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Parameter `model` should be a module or a state dict\. Found `int`"):
        store(1, net(2, 2))
    with pytest.raises(ConfigurationError, match=r"Parameter `base` .* Found `extra` of `bytes`"):
        store(net(2, 2), {"extra": b""})
    with pytest.raises(ConfigurationError, match=r"Parameter `model` .* Found `x` of torch.complex128"):
        store({"x": torch.ones(2, dtype=torch.complex128)}, {})
    written(net(2, 2, 2), lambda state: state["0.bias"].add_(1))
    with pytest.raises(ConfigurationError, match=r"Parameter `model` should be a module\. Found `OrderedDict`"):
        load_delta(net(2, 2, 2).state_dict(), PATH)  # type: ignore[type-var]


def test_models_of_transformers() -> None:
    base, model = tiny_bert(), tiny_bert()
    with torch.no_grad():
        embedding_of(model)[7] += 1
        model.classifier.weight.add_(1)  # type: ignore[union-attr, operator]
    store(model, base)
    assert same(load_delta(tiny_bert(), PATH), model)
