"""Runs of transformers' Trainer on tiny models, with a gradient transform by its callback or its mixin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from lightning_sparsegrad import GradientEngine, GradientTransform, TransformersCallback, TransformersMixin
from tests.tiny import tiny_llama

DOORS = ("callback", "mixin")
BATCHES, ACCUMULATE, EPOCHS = 7, 2, 2  # each epoch ends with a short window
STEPS = EPOCHS * 4


class MixedIn(TransformersMixin, Trainer):
    pass


def rows(count: int = BATCHES, *, classes: int = 0) -> list[dict[str, Any]]:
    """Return rows of tokens, with the tokens as labels or with a class."""
    tokens = [((torch.arange(6) * (row + 2) + row) % 47) + 3 for row in range(count)]
    return [
        {"input_ids": each, "labels": torch.tensor(row % classes) if classes else each}
        for row, each in enumerate(tokens)
    ]


def optimizer_of(model: nn.Module) -> AdamW:
    return AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=True)


def made(
    door: str,
    transform: GradientTransform,
    folder: Path,
    *,
    model: nn.Module | None = None,
    data: Any = None,
    attach: bool = True,
    saves: bool = False,
    base: type[Trainer] = Trainer,
    callbacks: list[TrainerCallback] | None = None,
    options: dict[str, Any] | None = None,
    trainer_options: dict[str, Any] | None = None,
    **arguments: Any,
) -> Trainer:
    """Return a Trainer whose gradients are transformed."""
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": ACCUMULATE,
        "num_train_epochs": EPOCHS,
        "train_sampling_strategy": "sequential",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "steps" if saves else "no",
        "save_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    model = tiny_llama() if model is None else model
    args = TrainingArguments(**{**given, **arguments})
    common: dict[str, Any] = {"train_dataset": rows() if data is None else data, **(trainer_options or {})}
    if "optim" not in arguments and "optimizers" not in common:
        optimizer = optimizer_of(model)
        common["optimizers"] = optimizer, LambdaLR(optimizer, lambda _: 1.0)
    if door == "mixin":
        kind = MixedIn if base is Trainer else type("Own", (TransformersMixin, base), {})
        common |= {"gradient_transform": transform, "callbacks": callbacks, **(options or {})}
        mixed: Trainer = kind(model, args, **common)
        return mixed
    callback = TransformersCallback(transform, **(options or {}))
    trainer = base(model, args, callbacks=[*(callbacks or []), callback], **common)
    if attach:
        callback.attach(trainer)
    return trainer


def weights(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def in_plain_loop(transform: GradientTransform, model: nn.Module | None = None) -> dict[str, Tensor]:
    """Return the weights of a loop written by hand, which divides each loss as the Trainer does for a causal LM."""
    model = tiny_llama() if model is None else model
    optimizer = optimizer_of(model)
    engine = GradientEngine(model, transform, total_steps=STEPS, seed=3)
    engine.attach(optimizer)
    model.train()
    for epoch in range(EPOCHS):
        data = rows()
        for start in range(0, len(data), ACCUMULATE):
            window = data[start : start + ACCUMULATE]
            items = sum(row["labels"][1:].numel() for row in window)
            with engine.window(epoch=epoch):
                for row in window:
                    batch = {name: value[None] for name, value in row.items()}
                    model(**batch, num_items_in_batch=torch.tensor(items)).loss.backward()
                engine.apply_()
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


def engine_of(trainer: Trainer) -> GradientEngine:
    if isinstance(trainer, TransformersMixin):
        return trainer.gradient_engine
    callback = next(each for each in trainer.callback_handler.callbacks if isinstance(each, TransformersCallback))
    return callback.gradient_engine


class Recorder(TrainerCallback):
    """A reporter: it keeps what is logged."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.logs.append(dict(kwargs["logs"]))


def failing(model: nn.Module, *, at: int, error: BaseException) -> Callable[..., None]:
    """Have a model raise an error at a forward pass of training, once."""
    calls = 0

    def hook(*_: Any) -> None:
        nonlocal calls
        if torch.is_grad_enabled():
            calls += 1
            if calls == at:
                raise error

    model.register_forward_pre_hook(hook)
    return hook
