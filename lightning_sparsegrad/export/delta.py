"""Deltas: files with what training has changed in a model, which its base model is loaded with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.export import _bits
from lightning_sparsegrad.export._bits import bits, digest_of, name_of, tensors_of, tied_names
from lightning_sparsegrad.export._delta_reader import Delta, read_delta
from lightning_sparsegrad.export._delta_writer import write_delta
from lightning_sparsegrad.files._new import require_new

_Model = TypeVar("_Model", bound=nn.Module)


def save_delta(
    model: nn.Module | Mapping[str, Tensor], base: nn.Module | Mapping[str, Tensor], path: str | Path
) -> None:
    """Write into a new file what of a base model has changed in a model that was trained from it.

    Entries count as changed if their bits differ, so that `load_delta` restores the model bit by bit. A tensor is
    stored as the indices and values of its changed entries; or whole, if the base lacks it, has it in another shape, or
    that takes fewer bytes. Of floating-point tensors the base may have another dtype: it counts in that of the model,
    as a Trainer with `precision="bf16-true"` converts it. Tied tensors are stored once.

    The file is one of safetensors, and appears complete or not at all. Tensors are compared and written in chunks:
    memory for at most one more tensor is needed, and only where one is not contiguous.

    Args:
        model: The trained model, or its state dict.
        base: The base model or its state dict, from before the training: a deep copy, or loaded anew. A state dict of
            it without the tensors that are new, such as those of a head, has these stored whole.
        path: The file to write, `.safetensors` by custom.

    Raises:
        ConfigurationError: If the file exists; if the base shares its memory or no name with the model; if one of them
            has a tensor that is sharded, quantized or without data.
        OSError: If the file cannot be written.

    Example:
        >>> from copy import deepcopy
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> base = torch.nn.Linear(30, 20)
        >>> model = deepcopy(base)
        >>> with torch.no_grad():
        ...     model.weight[3, 5:7] = 0.5
        >>> with TemporaryDirectory() as folder:
        ...     save_delta(model, base, Path(folder, "a.safetensors"))
        ...     loaded = load_delta(deepcopy(base), Path(folder, "a.safetensors"))
        >>> torch.equal(loaded.weight, model.weight)
        True
    """
    require_new(path, "path")
    tensors, before = tensors_of(model, "model"), tensors_of(base, "base")
    common = [name for name in tensors if name in before and before[name].numel()]
    if not common or all(before[name].data_ptr() == tensors[name].data_ptr() for name in common):
        fault = "one that shares its memory with the model" if common else "one that has none of the model's names"
        raise ConfigurationError(f"Parameter `base` should be the model as it was before the training. Found {fault}.")
    write_delta(tensors, before, path, "path")


def load_delta(model: _Model, path: str | Path) -> _Model:
    """Change a base model in place into the model that a delta was made of, bit for bit.

    Everything is checked before anything is changed: that the file is complete, and that each tensor of the model is
    that of the base, by its SHA-256. Tensors that are stored whole may have any values, such as those of a new head.

    Args:
        model: The base model as the run loaded it, or a task around it; on any device. Load it in the dtype that the
            trained model has, by default float32.
        path: The delta.

    Returns:
        The model.

    Raises:
        ConfigurationError: If the file is not a delta or is damaged; if the model is another base, has other tensors,
            shapes or dtypes, or has this delta already.
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"Parameter `model` should be a module. Found `{type(model).__name__}`.")
    tensors = tensors_of(model, "model")
    delta = read_delta(path)
    names = dict(_names(tensors, delta))
    _require_shapes(tensors, names, delta)
    _require_base(tensors, names, delta)
    with torch.no_grad():
        for name, stored in names.items():
            _change_(tensors[name], stored, delta)
    return model


def _names(tensors: Mapping[str, Tensor], delta: Delta) -> Iterator[tuple[str, str]]:
    """Yield a name of each tensor of a model, and its name in the delta.

    Raises:
        ConfigurationError: If model and delta have tensors of other names, or differ in which ones are tied.
    """
    known = {*delta.base, *delta.whole, *delta.tied}
    groups = [[name for name in names if name in known] or names for names in tied_names(tensors)]
    unknown = [names[0] for names in groups if names[0] not in known]
    missing = [name for name in (*delta.base, *delta.whole) if name not in tensors]
    for fault, names in (("missing", missing), ("that the delta does not know", unknown)):
        if names:
            raise ConfigurationError(
                f"Parameter `model` should have the tensors that the delta was made for: load the base model with the "
                f"head of the task. Found {len(names)} {fault}, `{names[0]}` first."
            )
    for names in groups:
        first, *others = dict.fromkeys(delta.tied.get(name, name) for name in names)
        for other in others:
            if not _same(delta, first, other):
                raise ConfigurationError(
                    f"Parameter `model` should have `{other}` apart from `{first}`, as the two differ in the model "
                    f"that the delta was made of. Found one tensor of both names."
                )
        yield names[0], first


def _require_shapes(tensors: Mapping[str, Tensor], names: Mapping[str, str], delta: Delta) -> None:
    for name, stored in names.items():
        tensor, expected = tensors[name], delta.base.get(stored) or delta.whole[stored]
        if tensor.shape != expected.shape:
            raise ConfigurationError(
                f"Parameter `model` should have `{name}` of shape {tuple(expected.shape)}. Found "
                f"{tuple(tensor.shape)}: load the base model with as many labels and tokens as the delta was made for."
            )
        if tensor.dtype != expected.dtype:
            dtype = name_of(expected.dtype)
            raise ConfigurationError(
                f"Parameter `model` should have `{name}` of {dtype}. Found {name_of(tensor.dtype)}: load it with "
                f'`dtype="{dtype}"`, or convert it by `.to(torch.{dtype})`.'
            )


def _require_base(tensors: Mapping[str, Tensor], names: Mapping[str, str], delta: Delta) -> None:
    listed = {name: delta.base[stored] for name, stored in names.items() if stored in delta.base}
    others = [name for name, each in listed.items() if digest_of(tensors[name], each.dtype) != each.digest]
    if not others:
        return
    changes = {name: delta.changes.get(names[name]) for name in others}
    loaded = all(change and _holds(tensors[name], change) for name, change in changes.items())
    raise ConfigurationError(
        f"Parameter `model` should be the base model of the delta, bit for bit. Found other values in {len(others)} of "
        f"{len(listed)} tensors, `{others[0]}` first."
        + (" It has this delta already: load the base model anew." if loaded else "")
    )


def _same(delta: Delta, one: str, other: str) -> bool:
    """Return whether a delta makes two tensors of it the same from the same."""
    stored = [(delta.whole.get(name), *(delta.changes.get(name) or (None, None))) for name in (one, other)]
    return delta.base.get(one) == delta.base.get(other) and all(map(_equal, *stored))


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and torch.equal(bits(one.reshape(-1)), bits(other.reshape(-1)))


def _holds(tensor: Tensor, change: tuple[Tensor, Tensor]) -> bool:
    """Return whether a tensor has the values of a delta already."""
    flat = bits(tensor.reshape(-1))
    return all(
        torch.equal(flat[index.to(flat.device, torch.int64)], bits(values).to(flat.device))
        for index, values in _in_chunks(change)
    )


def _change_(tensor: Tensor, name: str, delta: Delta) -> None:
    if (whole := delta.whole.get(name)) is not None:
        tensor.copy_(whole)
    elif change := delta.changes.get(name):
        contiguous = tensor.contiguous()  # itself, unless its layout is another
        flat = bits(contiguous.view(-1))
        for index, values in _in_chunks(change):
            flat[index.to(flat.device, torch.int64)] = bits(values).to(flat.device)
        if contiguous is not tensor:
            tensor.copy_(contiguous)


def _in_chunks(change: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(*(torch.split(each, _bits.CHUNK) for each in change), strict=True)
