"""Private names of torchmetrics that a resume needs: values that a metric keeps outside its state.

There are no public setters. Each name is checked against the installed version in `tests/private_names.py`. No upstream
issue; a `state_dict` that holds the number of updates would make this unnecessary.
"""

from typing import Any

from torch import Tensor
from torchmetrics import Metric

from lightning_sparsegrad.errors import needs_private_names

_resume = needs_private_names("torchmetrics", "a resume")


@_resume
def set_update_count(metric: Metric, count: int) -> None:
    """Set the number of updates of a metric; otherwise it warns that there are none, and returns an old value."""
    _ = metric._update_count, metric._computed
    metric._update_count, metric._computed = count, None


@_resume
def step_value(metric: Metric) -> Any:
    """Return the value of the last step, which `self.log(..., on_step=True)` shows."""
    return metric._forward_cache


@_resume
def set_step_value(metric: Any, value: Tensor | None) -> None:
    """Restore what `step_value` returned."""
    _ = metric._forward_cache
    metric._forward_cache = value
