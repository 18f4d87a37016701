"""Folders of Hugging Face Transformers, written from checkpoints."""

from lightning_sparsegrad.export.checkpoint import export_checkpoint

__all__ = ["export_checkpoint"]
