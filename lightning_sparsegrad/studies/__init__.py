"""Many runs, compared: what `sparsegrad study` does.

`_study` says which arms, settings and seeds there are, `_runs` makes an ordinary config of each, `_launchers` starts
them, `_recorder` notes in each how it went, and `_report` compares the `_run_results`: by the tests of `_inference`, in
tables and pictures. `draw_gradients` draws the file of a `GradientMonitor`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_sparsegrad.studies.gradient_pictures import draw_gradients

__all__ = ["draw_gradients"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_sparsegrad.studies import gradient_pictures  # with matplotlib, which a run of a study needs not

    return getattr(gradient_pictures, name)
