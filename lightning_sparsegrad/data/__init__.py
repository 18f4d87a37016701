"""Data modules: rows of text, tokenised once, cached, and padded batch by batch."""

from lightning_sparsegrad.data.text import TextDataModule
from lightning_sparsegrad.data.valence import ValenceDataModule

__all__ = ["TextDataModule", "ValenceDataModule"]
