"""The check that the Trainer of transformers averages the losses of a window."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer

from lightning_sparsegrad import (
    ComponentNormClip,
    ConfigurationError,
    GradDrop,
)
from tests.cases import cases
from tests.loops.transformers_runs import (
    DOORS,
    made,
    rows,
)
from tests.tiny import tiny_bert, tiny_llama


class Head(nn.Module):
    """A classifier with the loss of a mean, that takes any keyword as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.table, self.head = nn.Embedding(50, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Any, labels: Any = None, **kwargs: Any) -> dict[str, Any]:
        logits = self.head(self.table(input_ids).mean(1))
        return {"logits": logits, **({} if labels is None else {"loss": cross_entropy(logits, labels)})}


class OwnLoss(Trainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return cross_entropy(model(**inputs).logits.flatten(0, 1), inputs["labels"].flatten())


def ignore_items(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return cross_entropy(outputs["logits"], labels)


def divide(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


SUMMED: dict[str, dict[str, Any]] = {
    "a head of transformers": {"model": lambda: tiny_bert(num_labels=3), "data": rows(classes=3)},
    "a module": {"model": Head, "data": rows(classes=3)},
    "a Trainer's own loss": {"model": tiny_llama, "base": OwnLoss},
    "a function": {"model": Head, "data": rows(classes=3), "trainer_options": {"compute_loss_func": ignore_items}},
}


@cases("door", DOORS)
@cases("case", SUMMED.values(), ids=SUMMED)
def test_losses_that_are_summed_are_refused_with_clips_and_said_otherwise(
    door: str, case: dict[str, Any], tmp_path: Path
) -> None:
    case = {**case, "model": case["model"](), "max_steps": 1}
    message = "Found a loss that ignores it, so that gradients are 2 times those of the mean"
    with pytest.raises(ConfigurationError, match=message):
        made(door, ComponentNormClip(0.1), tmp_path, **case).train()
    with pytest.warns(UserWarning, match=message):
        made(door, GradDrop(0.5), tmp_path, **case).train()


@cases(
    "case",
    [
        {"model": tiny_llama},
        {"model": Head, "data": rows(classes=3), "trainer_options": {"compute_loss_func": divide}},
        {"model": Head, "data": rows(classes=3), "gradient_accumulation_steps": 1},
        {"model": lambda: tiny_bert(num_labels=3), "data": rows(classes=3), "label_smoothing_factor": 0.1},
    ],
)
def test_losses_that_are_averaged_train_silently(case: dict[str, Any], tmp_path: Path) -> None:
    made("callback", ComponentNormClip(0.1), tmp_path, max_steps=1, **{**case, "model": case["model"]()}).train()


class Normalised(Head):
    """A head that draws random numbers, with statistics that a forward pass of training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, input_ids: Any, labels: Any = None, **kwargs: Any) -> dict[str, Any]:
        torch.rand(1)
        logits = self.head(self.norm(self.table(input_ids)).mean(1))
        return {"logits": logits, **({} if labels is None else {"loss": cross_entropy(logits, labels)})}


def test_the_check_leaves_statistics_of_the_model_and_random_numbers_alone(tmp_path: Path) -> None:
    ends = []
    for scaled in (None, False):  # with the check, and without
        trainer = made("callback", GradDrop(0.5), tmp_path, model=Normalised(), data=rows(classes=3), max_steps=1)
        trainer.loss_is_scaled_for_ga = scaled
        with pytest.warns(UserWarning, match="2 times those") if scaled is None else nullcontext():
            trainer.train()
        assert trainer.model is not None
        ends.append((dict(trainer.model.named_buffers()), torch.get_rng_state(), trainer.model.training))
    (buffers, state, mode), (others, other_state, other_mode) = ends
    assert int(buffers["norm.num_batches_tracked"]) == 2
    assert all(torch.equal(buffer, others[name]) for name, buffer in buffers.items())
    assert torch.equal(state, other_state)
    assert mode == other_mode


@cases("attribute", ["loss_is_scaled_for_ga", "model_accepts_loss_kwargs"])
def test_what_the_message_names_mends_it(attribute: str, tmp_path: Path) -> None:
    trainer = made("callback", ComponentNormClip(0.1), tmp_path, model=Head(), data=rows(classes=3))
    setattr(trainer, attribute, False)
    trainer.train()


def test_a_callback_that_is_not_attached_says_what_it_does_not_check(tmp_path: Path) -> None:
    trainer = made("callback", GradDrop(0.5), tmp_path, model=Head(), data=rows(classes=3), attach=False)
    with pytest.warns(UserWarning, match=r"losses of `Head` .* is not checked: `TransformersCallback.attach"):
        trainer.train()


def test_a_loss_that_cannot_be_computed_twice_is_said(tmp_path: Path) -> None:
    class Once(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                raise ValueError("a loss of my own")
            return super().compute_loss(model, inputs, *args, **kwargs)

    with pytest.warns(UserWarning, match=r"could not be checked: ValueError\('a loss of my own'\)"):
        made("callback", ComponentNormClip(0.1), tmp_path, base=Once).train()
