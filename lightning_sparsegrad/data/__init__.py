"""Data modules, whose rows of text are tokenized once, cached, and padded batch by batch."""

from lightning_sparsegrad.data.base import TokenizedDataModule
from lightning_sparsegrad.data.emoji_topics import EmojiTopicsDataModule
from lightning_sparsegrad.data.glue import GlueDataModule
from lightning_sparsegrad.data.questions import QuestionsDataModule
from lightning_sparsegrad.data.rankings import RankingsDataModule
from lightning_sparsegrad.data.samplers import UnrepeatedSampler
from lightning_sparsegrad.data.text import TextDataModule
from lightning_sparsegrad.data.valence import ValenceDataModule
from lightning_sparsegrad.data.words import WordsDataModule
from lightning_sparsegrad.data.xglue import XglueDataModule

__all__ = [
    "EmojiTopicsDataModule",
    "GlueDataModule",
    "QuestionsDataModule",
    "RankingsDataModule",
    "TextDataModule",
    "TokenizedDataModule",
    "UnrepeatedSampler",
    "ValenceDataModule",
    "WordsDataModule",
    "XglueDataModule",
]
