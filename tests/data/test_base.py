import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.utils.data import DistributedSampler

from lightning_sparsegrad import Identity, SequenceClassification
from lightning_sparsegrad.data import TextDataModule, XglueDataModule
from lightning_sparsegrad.errors import ConfigurationError
from tests import hub
from tests.cases import cases
from tests.data.helpers import order


@pytest.mark.long
def test_a_second_run_does_not_tokenise_again(tokenizer, files, cache):
    first = TextDataModule(data_files=files, tokenizer=tokenizer)
    first.prepare_data()
    first.setup("fit")
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}

    code = "import datasets, sys; from lightning_sparsegrad.data import TextDataModule as D;"
    code += "datasets.disable_progress_bars();"
    code += f"data = D(data_files={files!r}, tokenizer={tokenizer!r}); data.setup('fit');"
    code += "print(data.dataset('train').cache_files[0]['filename'])"
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == first.dataset("train").cache_files[0]["filename"]
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")} == written

    shorter = TextDataModule(data_files=files, tokenizer=tokenizer, max_length=4)
    assert max(map(len, shorter.dataset("train")["input_ids"])) == 4


def test_a_file_that_was_changed_is_read_again(tokenizer, files):
    before = TextDataModule(data_files=files, tokenizer=tokenizer).dataset("train")["input_ids"][0]
    Path(files["train"]).write_text(Path(files["train"]).read_text().replace("a good day", "a fine day"))
    after = TextDataModule(data_files=files, tokenizer=tokenizer).dataset("train")["input_ids"][0]
    assert before != after


def test_the_order_is_a_function_of_seed_and_epoch(tokenizer, files):
    def epochs(seed: int, *wanted: int) -> list[Any]:
        data = TextDataModule(data_files=files, tokenizer=tokenizer, seed=seed, batch_size=1)
        loader = data.train_dataloader()
        orders = []
        for epoch in wanted:
            cast("DistributedSampler[Any]", loader.sampler).set_epoch(epoch)
            orders.append([tuple(batch["input_ids"][0].tolist()) for batch in loader])
        return orders

    first = epochs(3, 0, 1, 2)
    assert first == epochs(3, 0, 1, 2)
    assert first[2:] == epochs(3, 2)  # a resumed run has not drawn the epochs before
    assert all(sorted(order) == sorted(first[0]) for order in first)
    neighbours = epochs(4, 0, 1)
    assert len({str(order) for order in [*first, *neighbours]}) == 5


def test_without_a_seed_the_global_seed_orders_and_is_left_alone(tokenizer, files):
    data = TextDataModule(data_files=files, tokenizer=tokenizer, batch_size=1)
    explicit = TextDataModule(data_files=files, tokenizer=tokenizer, batch_size=1, seed=11)
    unseeded = order(data)
    seed_everything(11, verbose=False)
    state = torch.get_rng_state()
    assert order(data) == order(explicit) != unseeded
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_share_the_rows_out(tmp_path, tokenizer, files):
    data = TextDataModule(data_files=files, tokenizer=tokenizer, batch_size=1, seed=0)
    everything = order(data)
    data.trainer = trainer(tmp_path, devices=2, strategy="ddp")
    assert order(data) == everything[::2]
    assert len(data.train_dataloader().dataset) == 8  # type: ignore[arg-type]


def test_workers_give_the_same_batches(tokenizer, files):
    plain = TextDataModule(data_files=files, tokenizer=tokenizer, batch_size=1, seed=0)
    workers = TextDataModule(data_files=files, tokenizer=tokenizer, batch_size=1, seed=0, num_workers=1)
    assert order(workers) == order(plain)


@cases(
    ("arguments", "message"),
    [
        ({}, "Found `tokenizer = None` and no trainer"),
        ({"tokenizer": "./nowhere"}, r"Tokenizer `./nowhere` should be a hub id or a local folder .*\. Found: "),
        ({"max_length": 257}, r"`max_length` should be at most 256 for tokenizer .* Found `max_length = 257`\."),
    ],
)
def test_a_tokenizer_that_does_not_work_is_reported(tokenizer, files, arguments, message):
    known = {"tokenizer": tokenizer} if "max_length" in arguments else {}
    data = TextDataModule(data_files=files, **known, **arguments)
    with pytest.raises(ConfigurationError, match=message):
        data.setup("fit")


class Reader(LightningModule):
    """A model with one parameter that keeps the batches it has read."""

    def __init__(self, model_name_or_path: str | None) -> None:
        super().__init__()
        self.model_name_or_path = model_name_or_path
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(tuple(map(tuple, batch["input_ids"].tolist())))
        return self.weight * batch["labels"].sum()

    def validation_step(self, batch, batch_idx):
        self.seen.append("validation")

    def predict_step(self, batch, batch_idx):
        return sorted(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path: Path, **arguments: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **arguments,
    )


def third_party_warnings(test):
    """Ignore Lightning's warnings of too few workers, intended here, and of its own use of a deprecated torch name."""
    few = pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
    # ends with the release of https://github.com/Lightning-AI/pytorch-lightning that stops reading `LeafSpec`
    return few(pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")(test))


@third_party_warnings
def test_a_trainer_runs_it_with_the_tokenizer_of_its_module(tmp_path, tokenizer, files):
    model, data = Reader(tokenizer), TextDataModule(data_files=files, batch_size=4, splits={"train": "train"})
    with pytest.warns(UserWarning, match="Total length of `list` across ranks is zero"):  # nothing to validate on
        trainer(tmp_path, max_epochs=2, log_every_n_steps=1).fit(model, datamodule=data)
    assert len(model.seen) == 4  # two batches, twice, and no validation: the mapping names no such split
    assert sorted(row for batch in model.seen[:1] for row in batch) != sorted(
        row for batch in model.seen[2:3] for row in batch
    )

    predicted = trainer(tmp_path).predict(model, TextDataModule(data_files=files, splits={"predict": "train"}))
    assert predicted == [["attention_mask", "input_ids", "token_type_ids"]]


@third_party_warnings
def test_a_module_without_a_model_name_needs_a_tokenizer(tmp_path, files):
    with pytest.raises(ConfigurationError, match=r"Found `tokenizer = None` and `Reader`\."):
        trainer(tmp_path, max_epochs=1).fit(Reader(None), datamodule=TextDataModule(data_files=files))


@pytest.mark.parametrize("stage", ["fit", "predict"])
def test_data_of_another_task_is_refused(tmp_path, stage):
    encoder = hub.tiny_encoder(tmp_path / "encoder", layers=1)
    folder = hub.write_xglue(tmp_path / "data", "ner", rows=4)
    data = XglueDataModule("ner", dataset=folder, languages=["en"])
    run = getattr(trainer(tmp_path, max_epochs=1), stage)
    with pytest.raises(
        ConfigurationError, match=r"should be given to a `TokenClassification`\. Found `SequenceClassification`"
    ):
        run(SequenceClassification(encoder, 9, Identity()), data)


def test_a_stage_that_there_is_not_is_refused(tokenizer, files):
    with pytest.raises(ConfigurationError, match=r"`stage` should be one of 'fit', .* Found `stage = 'train'`\."):
        TextDataModule(data_files=files, tokenizer=tokenizer).setup("train")
