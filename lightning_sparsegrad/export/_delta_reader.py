"""The file of a delta, checked whole before anything is taken from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_sparsegrad.errors import ConfigurationError, reason_of
from lightning_sparsegrad.export import _bits
from lightning_sparsegrad.export._bits import DTYPES, name_of
from lightning_sparsegrad.export._delta_writer import FORMAT, VERSION

_BLOCK = 1 << 20  # bytes
_LONGEST = 1000  # characters of a name
_MOST_HEADER = 100_000_000  # bytes, as in safetensors
_KNOWN = {name_of(dtype): dtype for dtype in DTYPES.values()}


@dataclass(frozen=True)
class Listed:
    """A tensor of the base that a delta is relative to.

    Args:
        dtype: Its dtype.
        shape: Its shape.
        digest: The SHA-256 of its bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Delta:
    """A delta, whose tensors are read from its file when they are used.

    Args:
        whole: The tensors that are stored whole, by name.
        changes: Indices and values of the changed entries, by name.
        base: The tensors of the base that are not stored whole, by name.
        tied: The first name of each tensor that has a further one.
    """

    whole: Mapping[str, Tensor]
    changes: Mapping[str, tuple[Tensor, Tensor]]
    base: Mapping[str, Listed]
    tied: Mapping[str, str]


class _NoDeltaError(Exception):
    """The reason why a file is not a delta."""


def read_delta(path: str | Path) -> Delta:
    """Read the file of a delta; its tensors stay on the disk until they are used.

    Raises:
        ConfigurationError: If there is none, it is damaged, or holds what `write_delta` does not write.
    """
    try:
        return _read(Path(path))
    except (_NoDeltaError, OSError) as error:
        raise ConfigurationError(
            f"Parameter `path` should name a delta as `sparsegrad export --delta` or `save_delta` writes it. "
            f"Found `path = {path}`, {error}."
        ) from error


def _read(path: Path) -> Delta:
    from safetensors import safe_open

    content = _digest_of_content(path)
    try:
        with safe_open(path, "pt") as archive:
            metadata = archive.metadata() or {}
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118  # it is no mapping
    except Exception as error:  # safetensors raises a class of its own, and torch may raise others
        raise _NoDeltaError(f"which is damaged, cut, or no file of safetensors ({reason_of(error)})") from error
    _require_format(metadata)
    base, tied = _mapping(metadata, "base"), _mapping(metadata, "tied")
    if not all(name.isprintable() and len(name) < _LONGEST for name in (*tensors, *base, *tied)):  # shown in messages
        raise _NoDeltaError("whose names of tensors are none of Python")
    sums = {"content": content, "digest": sha256(metadata["base"].encode()).hexdigest()}
    if any(metadata.get(key) != digest for key, digest in sums.items()):
        raise _NoDeltaError("which was changed or cut after it was written")
    delta = _sorted(tensors, {name: _listed(entry) for name, entry in base.items()}, tied)
    stored = {*delta.base, *delta.whole}
    if any(type(first) is not str or first not in stored or name in stored for name, first in tied.items()):
        raise _NoDeltaError("whose `tied` lists other things than further names of its tensors")
    return delta


def _digest_of_content(path: Path) -> str:
    """Return the SHA-256 of everything behind the header."""
    if not path.is_file():
        raise _NoDeltaError("which is a folder" if path.is_dir() else "which does not exist")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MOST_HEADER:
            raise _NoDeltaError("which is no file of safetensors")
        file.seek(8 + size)
        digest = sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _require_format(metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise _NoDeltaError(f"a file of safetensors without `format` {FORMAT}")
    if metadata.get("version") != VERSION:
        raise _NoDeltaError(f"of another version than {VERSION}, which this release reads")


def _mapping(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise _NoDeltaError(f"whose `{key}` cannot be read") from error
    if not isinstance(value, dict):
        raise _NoDeltaError(f"whose `{key}` is no mapping")
    return value


def _listed(entry: Any) -> Listed:
    match entry:
        case [str(dtype), list(shape), str(digest)] if dtype in _KNOWN and all(
            type(size) is int and size >= 0 for size in shape
        ):
            return Listed(_KNOWN[dtype], tuple(shape), digest)
    raise _NoDeltaError("whose `base` lists other things than a dtype, a shape and a checksum for each tensor")


def _sorted(tensors: Mapping[str, Tensor], base: Mapping[str, Listed], tied: Mapping[str, Any]) -> Delta:
    whole: dict[str, Tensor] = {}
    changes: dict[str, tuple[Tensor, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition(":")
        if kind == "whole" and name not in base:
            whole[name] = tensor
        elif kind == "index" and name in base and f"value:{name}" in tensors:
            changes[name] = tensor, _values(tensors[f"value:{name}"], tensor, base[name], name)
            _require_ascending(tensor, prod(base[name].shape), name)
        elif kind != "value" or f"index:{name}" not in tensors:
            raise _NoDeltaError(f"whose `{key}` is none of its own")
    return Delta(whole, changes, base, tied)


def _values(values: Tensor, index: Tensor, listed: Listed, name: str) -> Tensor:
    if values.dtype != listed.dtype or values.ndim != 1 or (index.ndim == 1 and values.shape != index.shape):
        raise _NoDeltaError(f"whose `value:{name}` does not fit its indices and its base")
    return values


def _require_ascending(index: Tensor, size: int, name: str) -> None:
    """Check that indices are in range and none comes twice."""
    last = torch.tensor([-1])
    fits = index.ndim == 1 and index.dtype in {torch.int32, torch.int64}
    for chunk in torch.split(index, _bits.CHUNK) if fits else ():
        steps = torch.cat([last.to(chunk), chunk])
        fits = fits and bool((steps[1:] > steps[:-1]).all())
        last = chunk[-1:] if len(chunk) else last
    if not fits or int(last) >= size:
        raise _NoDeltaError(f"whose `index:{name}` should count entries of its base, ascending")
