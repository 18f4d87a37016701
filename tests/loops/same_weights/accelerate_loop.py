"""A loop with Accelerate, as its users write it."""

from accelerate import Accelerator, DistributedDataParallelKwargs

from lightning_sparsegrad import AccelerateAdapter
from tests.lightning.tasks import Weights

from .task import (
    ACCUMULATE,
    EPOCHS,
    SAVE_EVERY,
    STEPS_PER_EPOCH,
    TOTAL_STEPS,
    Job,
    Tiny,
    loader,
    new_optimizer,
    weights_of,
)


def train(job: Job) -> Weights:
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=ACCUMULATE,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    plain = Tiny(job.factor)
    model, optimizer, batches = accelerator.prepare(plain, new_optimizer(plain), loader(job.world))
    adapter = AccelerateAdapter(accelerator, model, optimizer, job.transform, total_steps=TOTAL_STEPS, seed=job.seed)
    accelerator.register_for_checkpointing(adapter)
    if job.resume:
        accelerator.load_state(str(job.folder / str(job.resume)))
    step, (first_epoch, done) = job.resume, divmod(job.resume, STEPS_PER_EPOCH)
    for epoch in range(first_epoch, EPOCHS):
        resumed = job.resume and epoch == first_epoch
        for batch in accelerator.skip_first_batches(batches, done * ACCUMULATE) if resumed else batches:
            with adapter.accumulate(epoch=epoch):
                accelerator.backward(model(**batch)["loss"])
                adapter.apply_()
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                step += 1
                if job.saves and step % SAVE_EVERY == 0:
                    accelerator.save_state(str(job.folder / str(step)))
    return weights_of(plain)
