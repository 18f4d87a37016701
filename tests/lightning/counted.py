"""The work of each of n processes for test_counts.py: evaluate and predict rows that they cannot share evenly.

Started by tests/launch.py, with a folder as its argument, or called in one process.
"""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_sparsegrad import (
    ExtractiveQuestionAnswering,
    Identity,
    PointwiseRanking,
    PredictionWriter,
    SequenceClassification,
    TokenClassification,
    UnrepeatedSampler,
    XglueDataModule,
)
from lightning_sparsegrad.data import TextDataModule, TokenizedDataModule
from lightning_sparsegrad.studies._majority import majority_scores
from tests import hub
from tests.data.helpers import write
from tests.lightning.tasks import trainer

ROWS = {"de": 7, "fr": 2, "sw": 1}
BATCH = 2


def prepare(folder: Path) -> None:
    """Write the data, and fill the cache with it."""
    hub.tiny_encoder(folder / "encoder", layers=1)
    for task in ("ner", "mlqa", "wpr"):
        hub.write_xglue(folder / task, task, rows=7)
    for part, rows in ROWS.items():
        texts = [" ".join(hub.KEYS[row : row + 1 + row * 5 % 4]) for row in range(rows)]
        write(folder / f"{part}.csv", text=texts, label=["no", "yes", "perhaps"] * (rows // 3) + ["no"] * (rows % 3))
        write(folder / f"{part}-number.csv", text=texts, label=[0.37 * (row * 3 % 5) + 0.1 for row in range(rows)])
    datasets.config.HF_DATASETS_CACHE = folder / "cache"


def texts(folder: Path, suffix: str = "", **arguments: Any) -> TextDataModule:
    files = {"train": f"{folder}/de{suffix}.csv"}
    for part in ROWS:
        files |= {f"{kind}.{part}": f"{folder}/{part}{suffix}.csv" for kind in ("validation", "test", "predict")}
    return TextDataModule(data_files=files, tokenizer=f"{folder}/encoder", batch_size=BATCH, **arguments)


def xglue(folder: Path, task: str) -> XglueDataModule:
    return XglueDataModule(
        task=task,  # type: ignore[arg-type]  # one of its names
        dataset=str(folder / task),
        languages=["en", "de"],
        tokenizer=f"{folder}/encoder",
        batch_size=BATCH,
        max_length=512,
    )


def kinds(folder: Path) -> dict[str, tuple[Callable[[], LightningModule], Callable[[], TokenizedDataModule]]]:
    encoder, plain = f"{folder}/encoder", Identity()
    numbers: Any = ["pearson", "spearman", "mse"]
    return {
        "classes": (lambda: SequenceClassification(encoder, 3, plain), lambda: texts(folder)),
        "by length, with workers": (
            lambda: SequenceClassification(encoder, 3, plain),
            lambda: texts(folder, group_by_length=True, num_workers=1),
        ),
        "numbers": (
            lambda: SequenceClassification(encoder, 1, plain, metrics=numbers),
            lambda: texts(folder, "-number"),
        ),
        "one by one": (
            lambda: SequenceClassification(encoder, 1, plain, metrics=numbers),
            lambda: texts(folder, "-number", eval_batch_size=1),
        ),
        "words": (lambda: TokenClassification(encoder, list(hub.TAGS["ner"]), plain), lambda: xglue(folder, "ner")),
        "questions": (lambda: ExtractiveQuestionAnswering(encoder, plain), lambda: xglue(folder, "mlqa")),
        "grades": (lambda: PointwiseRanking(encoder, len(hub.GRADES), plain), lambda: xglue(folder, "wpr")),
    }


def measured(run: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in run.callback_metrics.items()}


def written(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.*")) if path.is_file()}


def evaluate(folder: Path, out: Path, world: int) -> dict[str, Any]:
    """Run all cases; return the metrics and predictions by case."""
    shared: dict[str, Any] = {"devices": world, "strategy": "ddp"} if world > 1 else {}
    results: dict[str, Any] = {}
    for name, (make, data) in kinds(folder).items():
        torch.manual_seed(0)
        task, run = make(), trainer(callbacks=[PredictionWriter(str(out / name))], **shared)
        run.validate(task, data(), verbose=False)
        scores: dict[str, Any] = {"val": measured(run), "majority": majority_scores(run, task)}
        run.test(task, data(), verbose=False)
        scores["test"] = measured(run)
        returned: Any = run.predict(task, data())
        scores["returned"] = sum(len(batch["predictions"]) for part in returned for batch in part)
        results[name] = scores
    results["own loaders"] = own_loaders(folder, shared)
    return results


def own_loaders(folder: Path, shared: dict[str, Any]) -> dict[str, Any]:
    """Evaluate a user's loaders: as Lightning shares them, and each row once."""
    data = texts(folder)
    data.setup("validate")
    rows, collate = data.dataset("validation.de"), data.eval_loaders("validation")["de"].collate_fn
    scores: dict[str, Any] = {}
    for name, own in {"as it is": False, "each once": True}.items():

        class Owner(SequenceClassification):
            def val_dataloader(self, own: bool = own) -> Any:
                sampler = UnrepeatedSampler(rows, BATCH) if own and shared else None
                return DataLoader(rows, batch_size=BATCH, sampler=sampler, collate_fn=collate)

        torch.manual_seed(0)
        run = trainer(**shared)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run.validate(Owner(f"{folder}/encoder", 3, Identity()), verbose=False)
        messages = [str(warning.message) for warning in caught if "count twice" in str(warning.message)]
        scores[name] = {"val": measured(run), "messages": messages}
    return scores


def main(folder: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    torch.save(evaluate(folder, folder / "shared", world), folder / f"{rank}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", "The ``compute`` method of metric")
    main(Path(sys.argv[1]))
