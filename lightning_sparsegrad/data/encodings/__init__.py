"""What a row becomes, by task: which columns are read, token ids and labels, and how predictions are read back."""

from lightning_sparsegrad.data.encodings.answers import AnswerEncoding
from lightning_sparsegrad.data.encodings.base import Encoding, Tokens, kind_of
from lightning_sparsegrad.data.encodings.ranking import RankingEncoding
from lightning_sparsegrad.data.encodings.sequence import SequenceEncoding
from lightning_sparsegrad.data.encodings.tokens import TokenEncoding

__all__ = [
    "AnswerEncoding",
    "Encoding",
    "RankingEncoding",
    "SequenceEncoding",
    "TokenEncoding",
    "Tokens",
    "kind_of",
]
