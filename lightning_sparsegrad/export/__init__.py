"""Export of checkpoints to folders of Hugging Face Transformers, or to files of what a base model has changed in."""

from lightning_sparsegrad.export.checkpoint import export_checkpoint, export_delta
from lightning_sparsegrad.export.delta import load_delta, save_delta

__all__ = ["export_checkpoint", "export_delta", "load_delta", "save_delta"]
