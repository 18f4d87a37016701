"""The Trainer of transformers, through the callback of the library and through its mixin."""

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments

from lightning_sparsegrad import TransformersCallback, TransformersMixin
from tests.lightning.tasks import Weights

from .task import ACCUMULATE, EPOCHS, SAVE_EVERY, SIZE, Job, Tiny, loader, new_optimizer, weights_of


class MixedTrainer(TransformersMixin, Trainer):
    """The Trainer with the mixin."""


def by_callback(job: Job) -> Weights:
    """Train with the callback: given as any other on one process, and attached on several, where models are wrapped."""
    callback = TransformersCallback(job.transform)
    if job.world == 1:
        return _train(job, Trainer, callbacks=[callback])

    def attached(**arguments: Any) -> Trainer:
        trainer = Trainer(**arguments)
        callback.attach(trainer)
        return trainer

    return _train(job, attached)


def by_mixin(job: Job) -> Weights:
    return _train(job, MixedTrainer, gradient_transform=job.transform)


def _train(job: Job, make: Callable[..., Trainer], **arguments: Any) -> Weights:
    model = Tiny(job.factor)
    optimizer = new_optimizer(model)
    run = make(
        model=model,
        args=TrainingArguments(
            output_dir=str(job.folder),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=SIZE,
            gradient_accumulation_steps=ACCUMULATE,
            max_grad_norm=0.0,
            seed=job.seed,
            save_strategy="steps" if job.saves else "no",
            save_steps=SAVE_EVERY,
            train_sampling_strategy="sequential",
            dataloader_pin_memory=False,
            use_cpu=True,
            ddp_backend="gloo" if job.world > 1 else None,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=loader(job.world).dataset,
        optimizers=(optimizer, LambdaLR(optimizer, lambda _: 1.0)),
        **arguments,
    )
    run.train(resume_from_checkpoint=str(job.folder / f"checkpoint-{job.resume}") if job.resume else None)
    return weights_of(model)
