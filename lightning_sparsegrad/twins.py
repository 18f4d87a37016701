"""`lightning.pytorch` and `pytorch_lightning`: two packages with equal classes that are no instances of each other."""

import sys
from typing import TypeGuard, TypeVar

_PACKAGES = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}
_T = TypeVar("_T")


def is_a(instance: object, cls: type[_T]) -> TypeGuard[_T]:
    """Return whether something is an instance of a class of `lightning`, or of its twin in the other package.

    Example:
        >>> from lightning.pytorch import Callback
        >>> is_a(Callback(), Callback)
        True
    """
    for name, other in _PACKAGES.items():
        if cls.__module__.startswith(f"{name}."):
            module = sys.modules.get(other + cls.__module__.removeprefix(name))
            twin = getattr(module, cls.__name__, cls)  # what is not imported has no instances
            return isinstance(instance, cls | twin)
    return isinstance(instance, cls)
