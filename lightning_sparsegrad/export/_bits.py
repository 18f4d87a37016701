"""Tensors of a model by name, and their bits in chunks, so that no tensor is ever copied whole."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparsegrad.components.parameters import plain_name
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional._torch import uncompiled
from lightning_sparsegrad.functional.sharding import is_spread

CHUNK = 1 << 22  # entries

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "BOOL": torch.bool,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
}
"""The dtypes of safetensors files, by their names there."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def tensors_of(model: nn.Module | Mapping[str, Any], parameter: str) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by their names in a checkpoint, wrappers removed.

    Args:
        model: A module or a state dict. A LightningModule all of whose tensors are in its `model` stands for that.
        parameter: What it was given for, named in errors.

    Returns:
        The tensors themselves, tied ones under each of their names.

    Raises:
        ConfigurationError: If it is neither, or has a tensor that is sharded, quantized, sparse or without data.
    """
    if isinstance(model, nn.Module):
        state: Mapping[str, Any] = _inside(model).state_dict()
    elif isinstance(model, Mapping):
        state = model
    else:
        raise ConfigurationError(
            f"Parameter `{parameter}` should be a module or a state dict. Found `{type(model).__name__}`."
        )
    for name, tensor in state.items():
        if fault := _fault_of(tensor):
            raise ConfigurationError(
                f"Parameter `{parameter}` should hold whole tensors of common dtypes. Found `{name}` {fault}."
            )
    return {plain_name(name): tensor.detach() for name, tensor in state.items()}


def tied_names(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the names of each tensor, in order: several for one that is tied."""
    names: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        kind = (tensor.device, tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else name
        names.setdefault((tensor.data_ptr(), kind), []).append(name)
    return list(names.values())


def chunks_of(tensor: Tensor, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
    """Yield the entries of a tensor, row-major, in flat chunks on the CPU.

    Args:
        tensor: The tensor.
        dtype: The dtype to convert each chunk to; that of the tensor by default.
    """
    for chunk in torch.split(tensor.reshape(-1), CHUNK):
        yield chunk.to("cpu", dtype)


def bits(tensor: Tensor) -> Tensor:
    """Return a flat tensor as integers of the same bits; they share their memory."""
    return tensor.view(_BITS[tensor.element_size()])


def bytes_of(chunk: Tensor) -> memoryview:
    """Return the bytes of a flat chunk."""
    content: Any = chunk.contiguous().view(torch.uint8).numpy()
    return memoryview(content)


def digest_of(tensor: Tensor, dtype: torch.dtype) -> str:
    """Return the SHA-256 of the bytes of a tensor in a dtype."""
    digest = sha256()
    for chunk in chunks_of(tensor, dtype):
        digest.update(bytes_of(chunk))
    return digest.hexdigest()


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype as transformers takes it."""
    return str(dtype).removeprefix("torch.")


def _inside(module: nn.Module) -> nn.Module:
    from lightning.pytorch import LightningModule

    whole = uncompiled(module)
    if isinstance(whole, nn.parallel.DistributedDataParallel):
        return _inside(whole.module)
    inner = getattr(whole, "model", None)
    if not isinstance(whole, LightningModule) or not isinstance(inner, nn.Module):
        return whole
    return _inside(inner) if all(name.startswith("model.") for name in whole.state_dict()) else whole


def _fault_of(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return f"of `{type(tensor).__name__}`"
    if is_spread(tensor):
        return "in shards"
    if tensor.is_meta:
        return "on `meta`, without data"
    return "" if tensor.dtype in DTYPES.values() and tensor.layout == torch.strided else f"of {tensor.dtype}"
