"""The understanding tasks of the XGLUE benchmark."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from typing_extensions import override

from lightning_sparsegrad.data._checks import listed, require_columns
from lightning_sparsegrad.data._origins import load_dataset, resolve_folder
from lightning_sparsegrad.data.base import TokenizedDataModule
from lightning_sparsegrad.data.encodings import (
    AnswerEncoding,
    Encoding,
    RankingEncoding,
    SequenceEncoding,
    TokenEncoding,
)
from lightning_sparsegrad.data.encodings._base import Batch
from lightning_sparsegrad.errors import ConfigurationError, require_one_of
from lightning_sparsegrad.metrics import MetricName

if TYPE_CHECKING:
    from datasets import Dataset

XglueTaskName = Literal["ner", "pos", "nc", "mlqa", "xnli", "paws-x", "qadsm", "wpr", "qam"]

_HUB_ID, _REVISION = "hgissbkh/xglue", "de1926389545bc73d13a5b850f2596bdaf463f72"


@dataclass(frozen=True)
class XglueTask:
    """One task of XGLUE.

    Args:
        languages: The languages of validation and test; training is in English.
        encode: A function from the names of the labels to the encoding.
        labels: The names of the labels in the order of their ids.
        metrics: The official metrics, for a classification.
        joined: Texts that join two columns.
        writes_ids: Whether a submission has the ids of the classes rather than their names.
    """

    languages: str
    encode: Callable[[list[str]], Encoding]
    labels: tuple[str, ...]
    metrics: tuple[MetricName, ...] | None = None
    joined: dict[str, tuple[str, str]] = field(default_factory=dict)
    writes_ids: bool = False


def _classes(*columns: str, label: str = "label") -> Callable[[list[str]], Encoding]:
    return lambda names: SequenceEncoding(list(columns), label, names)


XGLUE: dict[str, XglueTask] = {
    "ner": XglueTask(
        "en de es nl",
        lambda names: TokenEncoding("words", "ner", names),
        ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"),
    ),
    "pos": XglueTask(
        "en de es nl bg el fr pl tr vi zh ur hi it ar ru th",
        lambda names: TokenEncoding("words", "pos", names),
        (
            *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
            *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
        ),
    ),
    "nc": XglueTask(
        "en de es fr ru",
        _classes("news_title", "news_body", label="news_category"),
        (
            *("foodanddrink", "sports", "travel", "finance", "lifestyle"),
            *("news", "entertainment", "health", "video", "autos"),
        ),
        ("accuracy",),
    ),
    "mlqa": XglueTask("en de ar es hi vi zh", lambda _: AnswerEncoding(), AnswerEncoding.labels),
    "xnli": XglueTask(
        "en ar bg de el es fr hi ru sw th tr ur vi zh",
        _classes("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
    ),
    "paws-x": XglueTask(
        "en de es fr", _classes("sentence1", "sentence2"), ("different", "same"), ("accuracy",), writes_ids=True
    ),
    "qadsm": XglueTask(
        "en de fr",
        _classes("query", "ad_text", label="relevance_label"),
        ("Bad", "Good"),
        ("accuracy",),
        joined={"ad_text": ("ad_title", "ad_description")},
    ),
    "wpr": XglueTask(
        "en de es fr it pt zh",
        lambda names: RankingEncoding(
            "query", text_columns=["query", "web_page_text"], label_column="relavance_label", label_names=names
        ),
        ("Bad", "Fair", "Good", "Excellent", "Perfect"),
        joined={"web_page_text": ("web_page_title", "web_page_snippet")},
    ),
    "qam": XglueTask("en de fr", _classes("question", "answer"), ("False", "True"), ("accuracy",), writes_ids=True),
}


class XglueDataModule(TokenizedDataModule):
    """The nine understanding tasks of XGLUE, with training in English, and validation and test in every language.

    ========  ===========================================  =============================  ====================
    task      module                                       metrics                        languages
    ========  ===========================================  =============================  ====================
    ner       `TokenClassification`                        `span_f1`                      en de es nl
    pos       `TokenClassification`                        `accuracy`, `span_precision`   17
    nc        `SequenceClassification`                     `accuracy`                     en de es fr ru
    mlqa      `ExtractiveQuestionAnswering`                `answer_f1`,                   en de ar es hi vi zh
                                                           `answer_exact_match`
    xnli      `SequenceClassification`                     `accuracy`                     15
    paws-x    `SequenceClassification`                     `accuracy`                     en de es fr
    qadsm     `SequenceClassification`                     `accuracy`                     en de fr
    wpr       `PointwiseRanking`                           `ndcg`                         en de es fr it pt zh
    qam       `SequenceClassification`                     `accuracy`                     en de fr
    ========  ===========================================  =============================  ====================

    The score of a task is the mean over its languages, `test/<metric>/mean`; `test/<metric>/mean_unseen` leaves out
    English.

    Args:
        task: `ner`, `pos`, `nc`, `mlqa`, `xnli`, `paws-x`, `qadsm`, `wpr` or `qam`.
        languages: The languages of validation, test and prediction; by default all of the task.
        dataset: A hub id, or a local folder with the same layout: `<folder>/ner/validation.de-00000-of-00001.parquet`.
            By default a copy of the benchmark as parquet, since the original is a script that `datasets` no longer
            runs.
        revision: The branch, tag or commit on the hub; by default the commit of the default data set that was checked.
        **kwargs: Arguments of `TokenizedDataModule`: `tokenizer`, `max_length`, `batch_size`, `eval_batch_size`,
            `num_workers`, `pad_to_multiple_of`, `group_by_length`, `max_samples` and `seed`.

    Raises:
        ConfigurationError: If there is no such task or folder, the task lacks a language, or a number is out of range.

    Example:
        >>> XglueDataModule("wpr", languages=["en", "zh"]).num_labels
        5

    References:
        Yaobo Liang et al. XGLUE: A New Benchmark Dataset for Cross-lingual Pre-training, Understanding and Generation.
        EMNLP 2020. https://arxiv.org/abs/2004.01401
    """

    train_language = "en"

    def __init__(
        self,
        task: XglueTaskName,
        *,
        languages: list[str] | None = None,
        dataset: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        require_one_of("task", task, get_args(XglueTaskName))
        self._facts = XGLUE[task]
        super().__init__(encoding=self._facts.encode(list(self._facts.labels)), **kwargs)
        known = self._facts.languages.split()
        for language in languages or ():
            require_one_of("languages", language, known)
        if languages is not None and not languages:
            raise ConfigurationError("Parameter `languages` should name at least one language. Found `languages = []`.")
        self.task, self.labels, self.metrics = task, self._facts.labels, self._facts.metrics
        self.languages = languages or known
        self._dataset = resolve_folder(dataset or _HUB_ID, revision)
        self._revision = revision or (_REVISION if dataset is None else None)

    @override
    def load_splits(self) -> "dict[str, Dataset]":
        """Return the training rows, and the rows of each language for validation, test and prediction.

        Raises:
            ConfigurationError: If the data cannot be loaded, or lack a language.
        """
        stored = load_dataset(self._dataset, self.task, self._revision)
        kinds = ("validation", "test")
        wanted = {name: name for kind in kinds for name in (f"{kind}.{language}" for language in self.languages)}
        wanted |= {f"predict.{language}": f"test.{language}" for language in self.languages}
        missing = sorted({name for name in wanted.values() if name not in stored})
        if missing:
            raise ConfigurationError(
                f"The data of `{self.task}` should have a split for each language. Found no {listed(missing)}."
            )
        wanted = {"train": "train", **wanted} if "train" in stored else wanted
        return {split: self._joined(stored[name], name) for split, name in wanted.items()}

    @override
    def decode(self, output: Mapping[str, Any], batch: Batch) -> list[Any]:
        """Return the predictions in XGLUE's format: names of labels, their ids, scores, or answers."""
        return output["predictions"].tolist() if self._facts.writes_ids else super().decode(output, batch)

    @override
    def write_predictions(self, folder: Path, part: str, predictions: list[Any]) -> None:
        """Write the file to submit for a language, such as `NER/de.prediction`.

        It has one prediction per line, with a blank line after each sentence of words. For `mlqa` it is JSON by the
        index of the row, since the data have no ids.
        """
        path = folder / self.task.replace("-", "").upper() / f"{part}.prediction"
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.task == "mlqa":
            text = json.dumps({str(index): answer for index, answer in enumerate(predictions)}, ensure_ascii=False)
        else:
            rows = ("".join(f"{word}\n" for word in row) if isinstance(row, list) else row for row in predictions)
            text = "".join(f"{row}\n" for row in rows)
        path.write_text(text, encoding="utf-8")

    def _joined(self, rows: "Dataset", split: str) -> "Dataset":
        for column, parts in self._facts.joined.items():
            require_columns(rows, dict.fromkeys(parts, "dataset"), split)
            rows = rows.map(_join, batched=True, input_columns=list(parts), fn_kwargs={"column": column})
        return rows


def _join(first: list[str | None], second: list[str | None], *, column: str) -> dict[str, list[str]]:
    return {column: [" ".join(filter(None, pair)) for pair in zip(first, second, strict=True)]}
