"""LightningModules: the base that masks and clips gradients, then one task per file.

The base needs torch and lightning alone. Tasks need transformers; all are loaded when one is first asked for here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_sparsegrad.modules._exports import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_sparsegrad.modules import _exports

    return getattr(_exports, name)
