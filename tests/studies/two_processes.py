"""A fit in two processes that validate on halves with different majorities; writes the bar and the labels."""

import json
import os
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from lightning_sparsegrad import Identity, SequenceClassification
from lightning_sparsegrad.studies._majority import majority_scores
from tests.tiny import tiny_bert

LABELS = [0, 1, 0, 1, 1, 1]


class Rows(Dataset[dict[str, torch.Tensor]]):
    """A row for each label."""

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.full((4,), 3 + index)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor(LABELS[index])}


def main(folder: Path) -> None:
    """Fit, and write the scores of this process."""
    torch.manual_seed(0)
    model = folder / f"model{os.environ['RANK']}"
    tiny_bert(num_labels=2, num_hidden_layers=1).save_pretrained(model)  # type: ignore[operator]
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    task = SequenceClassification(str(model), 2, Identity())
    trainer.fit(task, DataLoader(Rows(), batch_size=1), DataLoader(Rows(), batch_size=2))
    (folder / f"{trainer.global_rank}.json").write_text(json.dumps(majority_scores(trainer, task)))
