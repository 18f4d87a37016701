"""The learning-rate schedule of transformer fine-tuning."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._torch import set_last_rates


class LinearDecay(LRScheduler):
    r"""Warm up linearly, then decay linearly to zero at the end of training.

    .. math:: \eta_t = \eta \cdot \min\left(\frac{t + 1}{w + 1}, \frac{T - t}{T - w}\right)

    for optimizer step :math:`t` of :math:`T`, of which the first :math:`w` are warm-up. A resumed run with another
    length uses its own length from the resumed step on, as schedules of rates and thresholds do.

    Args:
        optimizer: The optimizer.
        warmup: Share of the training spent on warm-up, in [0, 1).
        total_steps: Optimizer steps of the whole training; `None` lets the module set it.

    Raises:
        ConfigurationError: If `warmup` is out of range or `total_steps` is not positive.
    """

    def __init__(self, optimizer: Optimizer, *, warmup: float = 0.0, total_steps: int | None = None) -> None:
        if not 0 <= warmup < 1:
            raise ConfigurationError(f"Parameter `warmup` should be in [0, 1). Found `warmup = {warmup}`.")
        self.warmup = warmup
        self.total_steps: int | None = None
        super().__init__(optimizer)
        if total_steps is not None:
            self.follow(total_steps)

    def follow(self, total_steps: int) -> None:
        """Set the length of the training, before its first step."""
        if total_steps < 1:
            raise ConfigurationError(
                f"Parameter `total_steps` should be positive. Found `total_steps = {total_steps}`."
            )
        self.total_steps = total_steps
        rates = self.get_lr()
        set_last_rates(self, rates)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    @override
    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each parameter group for the current step."""
        if self.total_steps is None:
            return list(self.base_lrs)
        warmup = int(self.warmup * self.total_steps)
        step = min(self.last_epoch, self.total_steps)
        factor = min((step + 1) / (warmup + 1), (self.total_steps - step) / (self.total_steps - warmup))
        return [factor * base for base in self.base_lrs]

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step, but keep the length of this training."""
        own = self.total_steps
        super().load_state_dict(state_dict)
        if own is not None:
            self.follow(own)
