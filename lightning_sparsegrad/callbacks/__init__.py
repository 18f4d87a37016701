"""Callbacks: the engine for any LightningModule, exact resume, tables, and records of what a fit did to a model.

`GradientTransformCallback` needs torch and lightning alone. All callbacks are loaded when the first is used from here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_sparsegrad.callbacks._exports import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_sparsegrad.callbacks import _exports

    return getattr(_exports, name)
