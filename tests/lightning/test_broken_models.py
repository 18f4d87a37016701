"""Folders of models whose files are broken, or whose configuration does not make a model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_sparsegrad import ConfigurationError, Identity, SequenceClassification
from lightning_sparsegrad.data import TextDataModule

from ..cases import cases
from ..data.helpers import save_tokenizer
from ..tiny import tiny_bert

WEIGHTS, TOKENIZER, TOKENS, CONFIG = "model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_bert().bert.save_pretrained(folder)  # type: ignore[operator,union-attr]  # without a head
    save_tokenizer(folder, {"pad_token": "[PAD]"})
    return folder


def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "m"))


def spoil(file: Path, how: bytes | dict[str, Any] | Callable[[bytes], bytes]) -> None:
    content = file.read_bytes()
    if isinstance(how, dict):
        file.write_text(json.dumps({**json.loads(content), **how}))
    else:
        file.write_bytes(how if isinstance(how, bytes) else how(content))


def task(folder: Path) -> SequenceClassification:
    return SequenceClassification(str(folder), num_labels=2, gradient_transform=Identity())


@cases(
    "how",
    [b"", b"{}", bytes(1000), bytes(range(256)) * 9, (2).to_bytes(8, "little") + b"[]", lambda content: content[:-1]],
    ids=["empty", "JSON", "zeros", "bytes", "header", "short"],
)
def test_broken_weights_are_refused(good: Path, tmp_path: Path, how: Any) -> None:
    folder = copy(good, tmp_path)
    spoil(folder / WEIGHTS, how)
    with pytest.raises(ConfigurationError, match=rf"^Parameter `model_name_or_path` should be .*{folder}`: .*header"):
        task(folder)


@cases(
    ("how", "reason"),
    [
        (b"3", "TypeError"),
        (b"null", "TypeError"),
        (b"[]", "model_type"),
        (b"\xff\xfe", "JSON"),
        ({"model_type": []}, "TypeError"),
        ({"hidden_act": "nope"}, "KeyError: 'nope'"),
        ({"id2label": 3}, "TypeError"),
        ({"num_attention_heads": 7}, "multiple of the number of attention heads"),
    ],
)
def test_a_broken_configuration_is_refused(good: Path, tmp_path: Path, how: Any, reason: str) -> None:
    folder = copy(good, tmp_path)
    spoil(folder / CONFIG, how)
    with pytest.raises(ConfigurationError, match=f"^Parameter `model_name_or_path` should be .*{reason}"):
        task(folder)


@cases(
    ("name", "value", "allowed"),
    [
        ("num_hidden_layers", -2, "positive"),
        ("num_hidden_layers", 0, "positive"),
        ("num_hidden_layers", 10**12, "at most 10000"),
        ("num_attention_heads", -4, "positive"),
        ("vocab_size", 0, "positive"),
        ("hidden_size", 0, "positive"),
        ("hidden_dropout_prob", float("nan"), "finite"),
        ("layer_norm_eps", float("inf"), "finite"),
    ],
)
def test_a_configuration_that_makes_no_model_is_refused(
    good: Path, tmp_path: Path, name: str, value: float, allowed: str
) -> None:
    folder = copy(good, tmp_path)
    spoil(folder / CONFIG, {name: value})
    message = rf"^`{name}` in the configuration of `{folder}` should be {allowed}\. Found {value}\.$"
    with pytest.raises(ConfigurationError, match=message):
        task(folder)


@cases(
    ("file", "how"),
    [
        (TOKENIZER, b"{}"),
        (TOKENIZER, b""),
        (TOKENIZER, b"[]"),
        (TOKENIZER, b"null"),
        (TOKENIZER, b"\xff\x00"),
        (TOKENIZER, lambda content: content[: len(content) // 2]),
        (TOKENIZER, {"model": {"type": "Nope"}}),
        (TOKENIZER, {"model": {"type": "WordLevel", "unk_token": "[UNK]"}}),
        (TOKENIZER, {"model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {}}}),
        (TOKENS, b"[]"),
        (TOKENS, {"tokenizer_class": 3}),
        (TOKENS, {"pad_token": 3}),
    ],
)
def test_a_broken_tokenizer_is_refused(good: Path, tmp_path: Path, file: str, how: Any) -> None:
    folder = copy(good, tmp_path)
    spoil(folder / file, how)
    data = TextDataModule("a/b", tokenizer=str(folder))
    with pytest.raises(ConfigurationError, match=rf"^Tokenizer `{folder}` should be .* Found: \S") as caught:
        data.tokenizer  # noqa: B018
    assert "\n" not in str(caught.value)


@cases("length", ["x", -3, 0])
def test_a_tokenizer_for_rows_of_no_length_is_refused(good: Path, tmp_path: Path, length: Any) -> None:
    folder = copy(good, tmp_path)
    spoil(folder / TOKENS, {"model_max_length": length})
    with pytest.raises(
        ConfigurationError, match=rf"positive `model_max_length` .* Found `model_max_length = {length!r}`"
    ):
        TextDataModule("a/b", tokenizer=str(folder)).tokenizer  # noqa: B018


def test_rows_have_to_hold_more_than_special_tokens(good: Path, tmp_path: Path) -> None:
    folder = copy(good, tmp_path)
    assert TextDataModule("a/b", tokenizer=str(folder), max_length=3).tokenizer
    with pytest.raises(ConfigurationError, match=r"`max_length` should be at least 3 .* Found `max_length = 2`"):
        TextDataModule("a/b", tokenizer=str(folder), max_length=2).tokenizer  # noqa: B018
