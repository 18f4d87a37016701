"""The file of a delta, written tensor by tensor in the format of safetensors.

Its metadata have the format's name and version, the version of the library, the number of changed tensors and entries,
and as JSON:

- `base`: dtype, shape and SHA-256 of each tensor of the base that is not stored whole, and `digest`: the SHA-256 of
  that text, which stands for the base;
- `tied`: the first name of each tensor that has a further one;
- `content`: the SHA-256 of everything behind the header.

The tensor `weight` of a model is there as `whole:weight`, or as `index:weight` (its changed entries, counted in
row-major order, ascending) and `value:weight` (what they are in the model), or not at all if nothing has changed.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from lightning_sparsegrad.export._bits import DTYPES, bits, bytes_of, chunks_of, digest_of, name_of, tied_names
from lightning_sparsegrad.files._new import require_new
from lightning_sparsegrad.files._writing import creating

FORMAT, VERSION = f"{__name__.partition('.')[0]}.delta", "1"

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST = 2**31  # entries that int32 counts


@dataclass(frozen=True)
class DeltaSize:
    """The size of a delta beside that of its model, tied tensors once.

    Args:
        tensors: Number of changed tensors.
        entries: Number of entries stored.
        size: Bytes of the file.
        of_tensors: Number of tensors of the model.
        of_entries: Number of entries of the model.
        of_size: Bytes of the model.
    """

    tensors: int
    entries: int
    size: int
    of_tensors: int
    of_entries: int
    of_size: int


@dataclass(frozen=True)
class _Stored:
    """A tensor of the file, whose bytes are read off the model when they are written."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    model: Tensor
    base: Tensor | None = None

    @property
    def size(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def chunks(self) -> Iterator[Tensor]:
        if self.base is None:
            yield from chunks_of(self.model)
            return
        start = 0
        for chunk, is_changed in _changes(self.model, self.base):
            if self.key.startswith("value:"):
                yield bits(chunk)[is_changed]
            else:
                yield is_changed.nonzero().view(-1).add_(start).to(self.dtype)
            start += len(chunk)


def write_delta(
    model: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    path: str | Path,
    parameter: str,
    fresh: Collection[str] = (),
) -> DeltaSize:
    """Write what of a base has changed in a model into a new file.

    Args:
        model: The tensors of the model.
        base: Those of its base.
        path: The file.
        parameter: What it was given for, named in errors.
        fresh: Names of tensors that are in the base by chance, such as those of a new head: these are stored whole.

    Raises:
        ConfigurationError: If the file exists by now.
        OSError: If it cannot be written.
    """
    base = {name: tensor for name, tensor in base.items() if name in model and name not in fresh}
    tied = dict(_tied(model, base))
    own = {name: tensor for name, tensor in model.items() if name not in tied}
    listed, stored = {}, []
    for name, tensor in own.items():
        count = _count(tensor, base.get(name))
        wide = torch.int32 if tensor.numel() <= _MOST else torch.int64
        if count is None or 0 < tensor.numel() * tensor.itemsize <= count * (tensor.itemsize + wide.itemsize):
            stored.append(_Stored(f"whole:{name}", tensor.dtype, tuple(tensor.shape), tensor))
            continue
        listed[name] = name_of(tensor.dtype), [*tensor.shape], digest_of(base[name], tensor.dtype)
        if count:
            stored.append(_Stored(f"index:{name}", wide, (count,), tensor, base[name]))
            stored.append(_Stored(f"value:{name}", tensor.dtype, (count,), tensor, base[name]))
    values = [each for each in stored if not each.key.startswith("index:")]
    counts = len(values), sum(prod(each.shape) for each in values)
    try:
        size = _write(path, stored, listed, tied, counts)
    except FileExistsError:
        require_new(path, parameter)
        raise
    entries = [tensor.numel() for tensor in own.values()]
    of_size = sum(tensor.numel() * tensor.itemsize for tensor in own.values())
    return DeltaSize(*counts, size, len(own), sum(entries), of_size)


def _tied(model: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield the further names of tied tensors with the first one, if they have the same values in the base, too."""
    for names in tied_names(model):
        first = next((name for name in names if name in base), names[0])
        for name in names:
            if name != first and (name not in base or _count(base[name], base[first]) == 0):
                yield name, first


def _count(tensor: Tensor, base: Tensor | None) -> int | None:
    """Return the number of entries that differ from the base; `None` if they cannot be compared."""
    if base is None or base.shape != tensor.shape:
        return None
    if base.dtype != tensor.dtype and not (base.is_floating_point() and tensor.is_floating_point()):
        return None
    if base.data_ptr() == tensor.data_ptr() and base.dtype == tensor.dtype and base.stride() == tensor.stride():
        return 0
    return sum(int(is_changed.count_nonzero()) for _, is_changed in _changes(tensor, base))


def _changes(tensor: Tensor, base: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the entries of a tensor in chunks, each with whether its bits differ from the base's in that dtype."""
    for chunk, before in zip(chunks_of(tensor), chunks_of(base, tensor.dtype), strict=True):
        yield chunk, bits(chunk) != bits(before)


def _write(
    path: str | Path,
    stored: list[_Stored],
    listed: Mapping[str, object],
    tied: Mapping[str, str],
    counts: tuple[int, int],
) -> int:
    stored.sort(key=lambda each: -each.dtype.itemsize)  # each begins at a multiple of its itemsize
    text = json.dumps(listed)
    metadata = {"format": FORMAT, "version": VERSION}
    with suppress(PackageNotFoundError):  # run from a checkout
        metadata["library"] = version("lightning-sparsegrad")
    metadata |= {"tensors": str(counts[0]), "entries": str(counts[1]), "tied": json.dumps(tied), "base": text}
    metadata["digest"] = sha256(text.encode()).hexdigest()
    digest = sha256()
    with creating(path) as file:
        file.write(_header(stored, {**metadata, "content": digest.hexdigest()}))
        for each in stored:
            for chunk in each.chunks():
                content = bytes_of(chunk)
                digest.update(content)
                file.write(content)
        size = file.tell()
        file.seek(0)
        file.write(_header(stored, {**metadata, "content": digest.hexdigest()}))  # of the same length
    return size


def _header(stored: list[_Stored], metadata: Mapping[str, str]) -> bytes:
    described: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for each in stored:
        end = start + each.size
        described[each.key] = {"dtype": _NAMES[each.dtype], "shape": each.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
