"""A loop with Fabric, as its users write it."""

from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

from lightning_sparsegrad import FabricAdapter
from tests.lightning.tasks import Weights

from .task import (
    ACCUMULATE,
    EPOCHS,
    MICRO_BATCHES,
    SAVE_EVERY,
    STEPS_PER_EPOCH,
    TOTAL_STEPS,
    Job,
    Tiny,
    micro_batches,
    new_optimizer,
    weights_of,
)


def train(job: Job) -> Weights:
    strategy = DDPStrategy(find_unused_parameters=True) if job.world > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=job.world, strategy=strategy)
    fabric.launch()
    plain, data = Tiny(job.factor), micro_batches(job)
    model, optimizer = fabric.setup(plain, new_optimizer(plain))
    adapter = FabricAdapter(fabric, model, optimizer, job.transform, total_steps=TOTAL_STEPS, seed=job.seed)
    state = {"model": model, "optimizer": optimizer, "gradient_transform": adapter}
    if job.resume:
        fabric.load(job.folder / f"{job.resume}.ckpt", state)
    step, (first_epoch, done) = job.resume, divmod(job.resume, STEPS_PER_EPOCH)
    for epoch in range(first_epoch, EPOCHS):
        for index, batch in enumerate(data):
            if epoch == first_epoch and index < done * ACCUMULATE:
                continue
            is_accumulating = (index + 1) % ACCUMULATE != 0 and index + 1 < MICRO_BATCHES
            with adapter.window(epoch=epoch), fabric.no_backward_sync(model, enabled=is_accumulating):
                fabric.backward(model(**batch)["loss"] / ACCUMULATE)
            if not is_accumulating:
                adapter.apply_()
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                if job.saves and step % SAVE_EVERY == 0:
                    fabric.save(job.folder / f"{step}.ckpt", state)
    return weights_of(plain)
