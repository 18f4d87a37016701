"""Epochs of the Trainer that begin or end otherwise than usual: resumed with other batches, stopped, interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

from lightning_sparsegrad import GradualUnfreezing, HeadOnly
from tests.cases import cases
from tests.loops.transformers_runs import DOORS, engine_of, made, rows


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(rows(4))


class Epochs(TrainerCallback):
    """A record of the epochs of windows, as the engine has them and as the Trainer counts them."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int | None, int]] = []
        self.trainer: Trainer | None = None

    def follow(self, trainer: Any) -> None:
        self.trainer, run = trainer, trainer._run_epoch

        def run_epoch(**arguments: Any) -> None:
            self.epoch = arguments["epoch"]
            run(**arguments)

        trainer._run_epoch = run_epoch

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.trainer is not None
        window = engine_of(self.trainer).current
        assert window is not None
        self.pairs.append((window.epoch, self.epoch))


@pytest.mark.long
@cases("door", DOORS)
@cases(
    ("data", "resumed", "last"),
    [(None, {"gradient_accumulation_steps": 4}, 1), (None, {"gradient_accumulation_steps": 1}, 1), (Stream(), {}, 3)],
    ids=["larger windows", "smaller windows", "data without a length"],
)
def test_a_resumed_run_counts_epochs_as_the_trainer_does(
    door: str, data: Any, resumed: dict[str, Any], last: int, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"data": data} if data is None else {"data": data, "max_steps": 8}
    made(door, GradualUnfreezing(unfreeze_every="epoch"), tmp_path, saves=True, **common).train()
    epochs = Epochs()
    trainer = made(
        door,
        GradualUnfreezing(unfreeze_every="epoch"),
        tmp_path / "resumed",
        callbacks=[epochs],
        **common,
        **resumed,
    )
    epochs.follow(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert epochs.pairs
    assert all(ours == theirs for ours, theirs in epochs.pairs), epochs.pairs
    assert epochs.pairs[-1][1] == last


class StopsWithin(TrainerCallback):
    """A callback that ends an epoch, or training, after the first micro-batch of a window."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == 2:
            if self.how == "error":
                raise KeyboardInterrupt
            setattr(control, self.how, True)
        return control


@cases("door", DOORS)
def test_an_epoch_that_a_callback_ends_within_a_window_is_said(door: str, tmp_path: Path) -> None:
    trainer = made(door, HeadOnly(), tmp_path, callbacks=[StopsWithin("should_epoch_stop")])
    with pytest.warns(UserWarning, match="A callback ended the epoch within the window of step 2: the Trainer adds"):
        trainer.train()
    assert trainer.model is not None
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


@cases("door", DOORS)
def test_an_interrupt_between_two_micro_batches_leaves_every_tensor_as_it_was(door: str, tmp_path: Path) -> None:
    trainer = made(door, HeadOnly(), tmp_path, callbacks=[StopsWithin("error")])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.model is not None
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
