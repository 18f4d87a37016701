"""Encodings of rows for each task: from columns to token ids and labels, and from outputs to predictions."""

from lightning_sparsegrad.data.encodings._answers import AnswerEncoding
from lightning_sparsegrad.data.encodings._base import Encoding, Tokens, kind_of
from lightning_sparsegrad.data.encodings._ranking import RankingEncoding
from lightning_sparsegrad.data.encodings._sequence import SequenceEncoding
from lightning_sparsegrad.data.encodings._tokens import TokenEncoding

__all__ = [
    "AnswerEncoding",
    "Encoding",
    "RankingEncoding",
    "SequenceEncoding",
    "TokenEncoding",
    "Tokens",
    "kind_of",
]
