"""A private name of Lightning: its decorator of class methods that are not to be called on an instance.

It is checked against the installed version in `tests/private_names.py`. Without it such a call is not refused, which
loads into a new instance and leaves the old one as it is. No upstream issue.
"""

try:
    from lightning.pytorch.utilities.model_helpers import _restricted_classmethod as restricted_classmethod
except ImportError:
    restricted_classmethod = classmethod  # type: ignore[misc]

__all__ = ["restricted_classmethod"]
