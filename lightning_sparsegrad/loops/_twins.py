"""`lightning.pytorch` and `pytorch_lightning`: two packages with equal classes that are no instances of each other."""

import sys
from typing import TypeGuard, TypeVar

from lightning_sparsegrad.errors import ConfigurationError

OURS, OTHER = "lightning.pytorch", "pytorch_lightning"
_T = TypeVar("_T")


def is_a(instance: object, cls: type[_T]) -> TypeGuard[_T]:
    """Return whether something is an instance of a class of `lightning.pytorch`, or of its twin in the other package.

    Example:
        >>> from lightning.pytorch import Callback
        >>> is_a(Callback(), Callback)
        True
    """
    module = sys.modules.get(OTHER + cls.__module__.removeprefix(OURS))
    twin = getattr(module, cls.__name__, cls)  # a class that is not imported has no instances
    return isinstance(instance, cls | twin)


def package_of(cls: type) -> str:
    """Return which of the two packages a class belongs to, by its nearest base in either; `""` if there is none."""
    packages = (name for base in cls.__mro__ for name in (OURS, OTHER) if f"{base.__module__}.".startswith(f"{name}."))
    return next(packages, "")


def about_twin(cls: type) -> str:
    """Return a sentence that names the import to use instead of a class of `pytorch_lightning`; empty for any other."""
    if package_of(cls) != OTHER:
        return ""
    is_theirs = cls.__module__.startswith(OTHER)
    instead = f"`{cls.__name__}` of `{OURS}`" if is_theirs else f"`import {OURS} as pl` where it is defined"
    return f" It is of `{OTHER}`, whose classes `{OURS}` does not know: use {instead}."


def require_our_trainer(trainer: object, owner: str) -> None:
    """Raise a `ConfigurationError` for a Trainer of `pytorch_lightning`."""
    if package_of(type(trainer)) == OTHER:
        raise ConfigurationError(
            f"`{owner}` should be used with a Trainer of `{OURS}`. Found one of `{OTHER}`: use `import {OURS} as pl` "
            f"in place of `import {OTHER} as pl`."
        )
