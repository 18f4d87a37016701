"""The statistics of a window that are logged."""

from torch import Tensor

from lightning_sparsegrad.engine.gradient_engine import GradientEngine

_NORMS = {"norm_before", "norm_after", "threshold"}  # of every component: too many to log


def logged_statistics(engine: GradientEngine) -> dict[str, Tensor]:
    """Return the statistics of the last window under the names by which they are logged, as 0-d tensors."""
    statistics = engine.statistics.items()
    return {f"gradient/{name}": value for name, value in statistics if _NORMS.isdisjoint(name.split("/")[:-1])}
