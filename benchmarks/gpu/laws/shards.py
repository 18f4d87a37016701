"""The law of shards."""

from contextlib import ExitStack

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from benchmarks.gpu.laws._law import Small, Snapshot, UnsupportedError, adamw, engine_for, small, train
from benchmarks.gpu.laws.loops import STEPS, mask_and_clip, quietly, weights_of_plain_loop


def check_shards(device: torch.device) -> str:
    """FSDP2 in one process gives the weights of the plain loop, up to the order in which norms are added up."""
    if torch.distributed.is_initialized():
        raise UnsupportedError("another process group is there")
    expected = weights_of_plain_loop(device, _to_shard(device))
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # torch leaves it untyped
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    with ExitStack() as stack:
        stack.enter_context(quietly())
        stack.callback(torch.distributed.destroy_process_group)
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
    worst = 0.0
    for name, weight in weights.items():
        other = expected[name]
        assert weight is not None
        assert other is not None
        worst = max(worst, float((weight - other).abs().max()))
    assert worst < 1e-5, f"weights differ by {worst}"
    return f"largest difference {worst:.0e}"


def _to_shard(device: torch.device) -> Small:
    """Return the model without its 0-d and its empty parameter, which cannot be sharded."""
    model = small(device)
    for name in ("temperature", "empty"):
        number = model.get_parameter(name).detach()
        delattr(model, name)
        model.register_buffer(name, number)
    return model
