"""Export of checkpoints to folders of Hugging Face Transformers."""

from lightning_sparsegrad.export.checkpoint import export_checkpoint

__all__ = ["export_checkpoint"]
