"""A private name of Lightning: the wrapper of methods that load a checkpoint, which refuses a call on an instance."""

from lightning.pytorch.utilities.model_helpers import _restricted_classmethod as restricted_classmethod

__all__ = ["restricted_classmethod"]
