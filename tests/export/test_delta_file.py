"""Files of deltas: written complete or not at all, and checked before anything is taken from them."""

import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_sparsegrad import ConfigurationError, load_delta, save_delta
from lightning_sparsegrad.export import _bits
from tests.cases import cases
from tests.export.test_delta import PATH, changed, header, net, refused, same, store, written
from tests.export.test_delta import in_a_folder_of_its_own as in_a_folder_of_its_own
from tests.files.test_writing import full as full


def rewrite(change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    """Forge a delta whose checksums are right."""
    tensors = {name: tensor.clone() for name, tensor in load_file(PATH).items()}
    with safe_open(PATH, "pt") as file:
        metadata: dict[str, str] = dict(file.metadata())
    change(tensors, metadata)
    metadata["digest"] = sha256(metadata.get("base", "").encode()).hexdigest()
    save_file(tensors, PATH, metadata)
    metadata["content"] = sha256(header()[1]).hexdigest()
    save_file(tensors, PATH, metadata)


def test_a_file_is_not_overwritten() -> None:
    PATH.write_text("mine")
    with pytest.raises(
        ConfigurationError, match=r"Parameter `path` should be the path of a new file\. Found `path = a.safetensors`"
    ):
        save_delta(net(2, 2), net(2, 2), PATH)
    assert PATH.read_text() == "mine"
    unusable: Any = 1
    with pytest.raises(ConfigurationError, match="which exists"):  # before anything is compared
        save_delta(unusable, unusable, "")
    save_delta(net(2, 2), net(2, 2), "new/folder/a.safetensors")
    assert sorted(path.name for path in Path("new").rglob("*")) == ["a.safetensors", "folder"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _bits.digest_of

    def slow(*args: Any) -> str:
        PATH.write_text("mine")
        return original(*args)

    monkeypatch.setattr("lightning_sparsegrad.export._delta_writer.digest_of", slow)
    with pytest.raises(ConfigurationError, match="should be the path of a new file"):
        written(net(6, 5, 3))
    assert [path.name for path in Path().iterdir()] == ["a.safetensors"]
    assert PATH.read_text() == "mine"


@pytest.mark.usefixtures("full")
def test_nothing_is_left_of_a_file_on_a_full_disk() -> None:
    with pytest.raises(OSError, match=r"File too large: 'a\.safetensors'"):
        store(changed(net(200, 200), lambda state: state["0.weight"].add_(1)), net(200, 200))
    assert not list(Path().iterdir())


def load_as_is(base: nn.Module, raw: bytes) -> nn.Module:
    """Load a file with some bytes into a copy of a base; if it is refused, nothing has changed."""
    PATH.write_bytes(raw)
    target = deepcopy(base)
    with suppress(ConfigurationError):
        return load_delta(target, PATH)
    assert same(target, base)
    return target


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    base = net(6, 5, 3)
    model = written(base)
    raw = PATH.read_bytes()
    content = 8 + struct.unpack("<Q", raw[:8])[0]
    for position in (*range(8), *range(8, content, 61), *range(content, len(raw), 3)):
        loaded = load_as_is(base, raw[:position] + bytes([raw[position] ^ 4]) + raw[position + 1 :])
        # a count in the metadata has no effect
        assert same(loaded, base) or (same(loaded, model) and 8 < position < content), position
    for size in (0, 4, 8, 20, content - 1, content, len(raw) - 1):
        PATH.write_bytes(raw[:size])
        refused(base, r"Parameter `path` should name a delta")
    PATH.write_bytes(raw + b"\0")
    refused(base, r"Parameter `path` should name a delta")


FORGED: Mapping[str, tuple[Callable[[dict[str, Tensor], dict[str, str]], Any], str]] = {
    "out of range": (lambda tensors, _: tensors["index:0.weight"].copy_(torch.tensor([8, 30])), "index:0.weight"),
    "negative": (lambda tensors, _: tensors["index:0.weight"].copy_(torch.tensor([-1, 8])), "index:0.weight"),
    "duplicates": (lambda tensors, _: tensors["index:0.weight"].copy_(torch.tensor([8, 8])), "index:0.weight"),
    "unsorted": (lambda tensors, _: tensors["index:0.weight"].copy_(torch.tensor([24, 8])), "index:0.weight"),
    "dtype of indices": (lambda t, _: t.update({"index:0.weight": torch.tensor([8.0, 24.0])}), "index:0.weight"),
    "bytes as indices": (lambda t, _: t.update({"index:0.weight": torch.tensor([8, 24]).byte()}), "index:0.weight"),
    "shape of indices": (lambda t, _: t.update({"index:0.weight": torch.tensor([[8, 24]])}), "index:0.weight"),
    "fewer values": (lambda tensors, _: tensors.update({"value:0.weight": torch.ones(1)}), "value:0.weight"),
    "dtype of values": (lambda t, _: t.update({"value:0.weight": torch.ones(2).half()}), "value:0.weight"),
    "no values": (lambda tensors, _: tensors.pop("value:0.weight"), "index:0.weight"),
    "no indices": (lambda tensors, _: tensors.pop("index:0.weight"), "value:0.weight"),
    "another kind": (lambda tensors, _: tensors.update({"some:0.weight": torch.ones(1)}), "some:0.weight"),
    "no kind": (lambda tensors, _: tensors.update({"weight": torch.ones(1)}), "`weight`"),
    "whole and in entries": (lambda t, _: t.update({"whole:0.weight": torch.ones(5, 6)}), "0.weight"),
    "entries of no base": (
        lambda t, _: t.update({"index:x": torch.zeros(1, dtype=torch.int), "value:x": torch.ones(1)}),
        "index:x",
    ),
    "another format": (lambda _, metadata: metadata.update(format="lightning_sparsegrad.mask"), "format"),
    "no format": (lambda _, metadata: metadata.clear(), "format"),
    "another version": (lambda _, metadata: metadata.update(version="2"), "another version than 1"),
    "names with control characters": (lambda t, _: t.update({"whole:\x1b[31m": torch.ones(1)}), "names of tensors"),
    "names without end": (lambda _, metadata: metadata.update(tied=json.dumps({"z" * 2000: "0.bias"})), "names of"),
    "names of several lines": (
        lambda _, metadata: metadata.update(base='{"a\\nb": ["float32", [1], "0"]}'),
        "names of",
    ),
    "no base": (lambda _, metadata: metadata.pop("base"), "`base`"),
    "base of no JSON": (lambda _, metadata: metadata.update(base="{"), "`base`"),
    "deep JSON": (lambda _, metadata: metadata.update(base="[" * 100_000), "`base`"),
    "a list as base": (lambda _, metadata: metadata.update(base="[]"), "`base`"),
    "a base of numbers": (lambda _, metadata: metadata.update(base='{"0.weight": 1}'), "`base`"),
    "a base of other lists": (lambda _, m: m.update(base='{"0.weight": ["float32", ["a"], "0"]}'), "`base`"),
    "a shape below zero": (lambda _, m: m.update(base='{"0.weight": ["float32", [-5, -6], "0"]}'), "`base`"),
    "ties of no JSON": (lambda _, metadata: metadata.update(tied="{"), "`tied`"),
    "ties to nothing": (lambda _, metadata: metadata.update(tied='{"z": "y"}'), "`tied`"),
    "ties in a ring": (lambda _, metadata: metadata.update(tied='{"0.weight": "0.weight"}'), "`tied`"),
    "ties of lists": (lambda _, metadata: metadata.update(tied='{"z": []}'), "`tied`"),
}


@cases("name", FORGED)
def test_a_forged_file_is_refused_before_anything_changes(name: str) -> None:
    base = net(6, 5, 3)
    written(base)
    rewrite(FORGED[name][0])
    refused(base, rf"Parameter `path` should name a delta.*{FORGED[name][1]}")


def test_a_file_forged_with_right_checksums_only_loads_as_what_it_says() -> None:
    """The forger of these tests forges well: without a change its file loads."""
    model = written(net(6, 5, 3))
    rewrite(lambda _, __: None)
    assert same(load_delta(net(6, 5, 3), PATH), model)


def test_headers_of_any_size_are_refused() -> None:
    base = net(2, 2)
    for size in (2**63, 2**40, 99_999_999):
        PATH.write_bytes(struct.pack("<Q", size) + b"{}" * 10)
        refused(base, "Parameter `path` should name a delta")
    PATH.write_bytes(struct.pack("<Q", 8) + b'"' * 8)
    refused(base, "Parameter `path` should name a delta")
    content = json.dumps({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**62]}}).encode()
    PATH.write_bytes(struct.pack("<Q", len(content)) + content)
    refused(base, "Parameter `path` should name a delta")


def test_what_is_no_file_is_refused() -> None:
    base = net(2, 2)
    refused(base, r"Found `path = a.safetensors`, which does not exist")
    PATH.mkdir()
    refused(base, r"Found `path = a.safetensors`, which is a folder")


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path("sprung").touch, ()


def test_what_is_no_delta_runs_no_code() -> None:
    base = net(2, 2)
    contents = {"weights": torch.ones(1), "trap": Trap()}
    save_file(base.state_dict(), PATH)
    refused(base, r"Parameter `path` should name a delta")
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write(contents, PATH)
        refused(base, r"Parameter `path` should name a delta")
    assert not Path("sprung").exists()


def test_the_file_says_what_it_is() -> None:
    base = net(6, 5, 3)
    written(base)
    with safe_open(PATH, "pt") as file:
        metadata: dict[str, str] = file.metadata()
    assert metadata["format"] == "lightning_sparsegrad.delta"
    assert metadata["version"] == "1"
    assert (metadata["tensors"], metadata["entries"]) == ("2", "3")
    listed = json.loads(metadata["base"])
    raw = base.state_dict()["0.weight"].numpy().tobytes()
    assert listed["0.weight"] == ["float32", [5, 6], sha256(raw).hexdigest()]
    assert metadata["digest"] == sha256(metadata["base"].encode()).hexdigest()


def test_the_same_models_give_the_same_file() -> None:
    written(net(6, 5, 3))
    first = PATH.read_bytes()
    written(net(6, 5, 3))
    assert PATH.read_bytes() == first


@pytest.mark.long
def test_memory_is_that_of_a_chunk() -> None:
    """Neither writing nor loading copies a tensor, let alone the model."""
    code = """
import resource, torch
from lightning_sparsegrad import load_delta, save_delta
make = lambda: torch.nn.ParameterDict({str(i): torch.zeros(4096, 4096) for i in range(8)})
base, model = make(), make()
with torch.no_grad():
    for index, tensor in enumerate(model.values()):
        tensor.view(-1)[:: 4 if index % 2 else 1] = 1.0
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
save_delta(model, base, "big.safetensors")
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150  # MiB, beside 512 for each model
