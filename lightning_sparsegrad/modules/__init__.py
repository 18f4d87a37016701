"""LightningModules: the base that masks and clips gradients, and one task per file.

The base needs only torch and lightning. Tasks need transformers; accessing one of them here imports them all.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_sparsegrad.modules._exports import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_sparsegrad.modules import _exports

    return getattr(_exports, name)
