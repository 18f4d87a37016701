"""Comparisons of strategies over many runs: the command `sparsegrad study`.

`_study` defines arms, settings and seeds; `_runs` makes an ordinary config for each run; `_launchers` starts the runs;
`_recorder` records the result of each; and `_report` compares the `_run_results` with the tests of `_inference`, in
tables and pictures. `draw_gradients` draws the file of a `GradientMonitor`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_sparsegrad.studies.gradient_pictures import draw_gradients

__all__ = ["draw_gradients"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_sparsegrad.studies import gradient_pictures  # imports matplotlib, which a run does not need

    return getattr(gradient_pictures, name)
