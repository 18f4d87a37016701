"""All modules in one import."""

from lightning_sparsegrad.modules.base import SparseGradModule
from lightning_sparsegrad.modules.extractive_question_answering import ExtractiveQuestionAnswering
from lightning_sparsegrad.modules.linear_decay import LinearDecay
from lightning_sparsegrad.modules.pointwise_ranking import PointwiseRanking
from lightning_sparsegrad.modules.sequence_classification import SequenceClassification
from lightning_sparsegrad.modules.token_classification import TokenClassification
from lightning_sparsegrad.modules.transformer import TransformerTask

__all__ = [
    "ExtractiveQuestionAnswering",
    "LinearDecay",
    "PointwiseRanking",
    "SequenceClassification",
    "SparseGradModule",
    "TokenClassification",
    "TransformerTask",
]
