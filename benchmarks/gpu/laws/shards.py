"""The law of shards."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from benchmarks.gpu.laws._law import Small, Snapshot, UnsupportedError, adamw, engine_for, small, train
from benchmarks.gpu.laws.loops import STEPS, mask_and_clip, require_same, weights_of_plain_loop


def check_shards(device: torch.device) -> str:
    """FSDP2 in one process gives the weights of the plain loop."""
    if torch.distributed.is_initialized():
        raise UnsupportedError("another process group is there")
    expected = weights_of_plain_loop(device, _to_shard(device))
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # torch leaves it untyped
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        model = _to_shard(device)
        mesh = init_device_mesh(device.type, (1,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        train(engine_for(model, mask_and_clip()), adamw(model), range(STEPS), device)
        weights: Snapshot = {}
        for name, parameter in model.named_parameters():
            sharded: object = parameter.detach()
            assert isinstance(sharded, DTensor), f"{name} is not sharded"
            weights[name] = sharded.full_tensor().cpu()
    finally:
        torch.distributed.destroy_process_group()
    require_same(weights, expected, "FSDP2")
    return f"{len(weights)} tensors"


def _to_shard(device: torch.device) -> Small:
    """Return the model without its 0-d and its empty parameter, which cannot be sharded."""
    model = small(device)
    for name in ("temperature", "empty"):
        number = model.get_parameter(name).detach()
        delattr(model, name)
        model.register_buffer(name, number)
    return model
