"""A private name of Lightning: its decorator of class methods that refuse to be called on an instance.

`tests/private_names.py` checks it against the installed version. Without it, calling `load_from_checkpoint` on an
instance would load into a new one and leave the old one unchanged. No upstream issue.
"""

try:
    from lightning.pytorch.utilities.model_helpers import _restricted_classmethod as restricted_classmethod
except ImportError:
    restricted_classmethod = classmethod  # type: ignore[misc]

__all__ = ["restricted_classmethod"]
