"""Callbacks: the engine for any LightningModule, an exact resume of any fit, tables, and what a fit did to a model.

`GradientTransformCallback` needs torch and lightning alone. All are loaded when one is first asked for here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_sparsegrad.callbacks._exports import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_sparsegrad.callbacks import _exports

    return getattr(_exports, name)
