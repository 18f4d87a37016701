"""The GLUE benchmark."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from typing_extensions import override

from lightning_sparsegrad.data._origins import load_dataset, resolve_folder
from lightning_sparsegrad.data._predictions import write_table
from lightning_sparsegrad.data.base import TokenizedDataModule
from lightning_sparsegrad.data.encodings import SequenceEncoding, kind_of
from lightning_sparsegrad.data.encodings._base import Batch
from lightning_sparsegrad.errors import ConfigurationError, require_one_of
from lightning_sparsegrad.metrics import MetricName

if TYPE_CHECKING:
    from datasets import Dataset

GlueTaskName = Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "ax"]

_ENTAILMENT = ("entailment", "not_entailment")
_INFERENCE = ("entailment", "neutral", "contradiction")
_SIMILARITY = (0.0, 5.0)


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE.

    Args:
        text_columns: The column of the sentence, or the two columns of a pair.
        labels: The names of the classes in the order of their ids; none for a regression.
        metrics: The official metrics.
        files: The submission file of each part of the test split; `""` stands for a split without parts.
        writes_names: Whether a submission has the names of the classes rather than their ids.
    """

    text_columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[MetricName, ...]
    files: dict[str, str]
    writes_names: bool = False


_PAIR = ("sentence1", "sentence2")
_GENRES = ("matched", "mismatched")
GLUE: dict[str, GlueTask] = {
    "cola": GlueTask(("sentence",), ("unacceptable", "acceptable"), ("matthews",), {"": "CoLA.tsv"}),
    "sst2": GlueTask(("sentence",), ("negative", "positive"), ("accuracy",), {"": "SST-2.tsv"}),
    "mrpc": GlueTask(_PAIR, ("not_equivalent", "equivalent"), ("binary_f1", "accuracy"), {"": "MRPC.tsv"}),
    "qqp": GlueTask(
        ("question1", "question2"), ("not_duplicate", "duplicate"), ("binary_f1", "accuracy"), {"": "QQP.tsv"}
    ),
    "stsb": GlueTask(_PAIR, (), ("pearson", "spearman"), {"": "STS-B.tsv"}),
    "mnli": GlueTask(
        ("premise", "hypothesis"),
        _INFERENCE,
        ("accuracy",),
        {"matched": "MNLI-m.tsv", "mismatched": "MNLI-mm.tsv"},
        writes_names=True,
    ),
    "qnli": GlueTask(("question", "sentence"), _ENTAILMENT, ("accuracy",), {"": "QNLI.tsv"}, writes_names=True),
    "rte": GlueTask(_PAIR, _ENTAILMENT, ("accuracy",), {"": "RTE.tsv"}, writes_names=True),
    "wnli": GlueTask(_PAIR, ("not_entailment", "entailment"), ("accuracy",), {"": "WNLI.tsv"}),
    "ax": GlueTask(("premise", "hypothesis"), _INFERENCE, ("accuracy",), {"": "AX.tsv"}, writes_names=True),
}


class GlueDataModule(TokenizedDataModule):
    """The nine tasks of GLUE and its diagnostic set, for `SequenceClassification`.

    Validation computes the official metrics (Matthews correlation for `cola`; F1 and accuracy for `mrpc` and `qqp`;
    Pearson and Spearman correlation for `stsb`; accuracy otherwise), for `mnli` on the parts `matched` and
    `mismatched`. GLUE's test labels are not published: `predict` writes the files to submit, and `test` is refused. The
    diagnostic set `ax` is trained and validated like `mnli`, and has its own sentences to predict.

    Args:
        task: `cola`, `sst2`, `mrpc`, `qqp`, `stsb`, `mnli`, `qnli`, `rte`, `wnli` or `ax`.
        dataset: The hub id, or a local folder with the same layout: `<folder>/cola/train-00000-of-00001.parquet`.
        revision: The branch, tag or commit on the hub.
        **kwargs: Arguments of `TokenizedDataModule`: `tokenizer`, `max_length`, `batch_size`, `eval_batch_size`,
            `num_workers`, `pad_to_multiple_of`, `group_by_length`, `max_samples` and `seed`.

    Raises:
        ConfigurationError: If there is no such task or folder, or a number is out of range.

    Example:
        >>> GlueDataModule("mnli").num_labels
        3

    References:
        Alex Wang, Amanpreet Singh, Julian Michael, Felix Hill, Omer Levy, Samuel R. Bowman. GLUE: A Multi-Task
        Benchmark and Analysis Platform for Natural Language Understanding. ICLR 2019. https://arxiv.org/abs/1804.07461
    """

    encoding: SequenceEncoding

    def __init__(
        self, task: GlueTaskName, *, dataset: str = "nyu-mll/glue", revision: str | None = None, **kwargs: Any
    ) -> None:
        require_one_of("task", task, get_args(GlueTaskName))
        self._facts = GLUE[task]
        encoding = SequenceEncoding(list(self._facts.text_columns), "label", list(self._facts.labels) or None)
        super().__init__(encoding=encoding, **kwargs)
        self.task, self.labels, self.metrics = task, self._facts.labels, self._facts.metrics
        self._dataset, self._revision = resolve_folder(dataset, revision), revision

    @override
    def load_splits(self) -> "dict[str, Dataset]":
        """Return the rows for training, validation and prediction.

        Raises:
            ConfigurationError: If the data cannot be loaded, or are not GLUE's.
        """
        stored = self._load("mnli" if self.task == "ax" else self.task)
        names = {"train": "train", "validation": "validation", "predict": "test"}
        if self.task in ("mnli", "ax"):
            names = {"train": "train", **{f"validation.{part}": f"validation_{part}" for part in _GENRES}}
        if self.task == "mnli":
            names |= {f"predict.{part}": f"test_{part}" for part in _GENRES}
        rows = {split: stored[name] for split, name in names.items() if name in stored}
        return {**rows, "predict": self._load("ax")["test"]} if self.task == "ax" else rows

    @override
    def rows(self, split: str) -> "Dataset":
        if kind_of(split) == "test":
            raise ConfigurationError(
                f"GLUE's test labels are not published (they read -1), so `{self.task}` cannot be scored on them: run "
                f"`validate` for scores, and `predict` for the files to submit."
            )
        return super().rows(split)

    @override
    def decode(self, output: Mapping[str, Any], batch: Batch) -> list[Any]:
        """Return the predictions in GLUE's format: names of classes, their ids, or numbers from 0 to 5."""
        if not self._facts.labels:
            least, most = _SIMILARITY
            return [round(min(max(value, least), most), 3) for value in output["predictions"].tolist()]
        return super().decode(output, batch) if self._facts.writes_names else output["predictions"].tolist()

    @override
    def write_predictions(self, folder: Path, part: str, predictions: list[Any]) -> None:
        """Write the file to submit for a part of the test split, such as `MNLI-m.tsv`."""
        write_table(folder / self._facts.files[part], predictions)

    def _load(self, config: str) -> "Mapping[str, Dataset]":
        return load_dataset(self._dataset, config, self._revision)
