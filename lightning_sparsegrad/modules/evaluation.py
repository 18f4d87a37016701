"""What is measured on each part of the data: a language, or one of several validation sets."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from lightning_sparsegrad.data.checks import require_no_mean
from lightning_sparsegrad.metrics import WeightedMean


class Evaluation:
    """The loss and the metrics of each part of an evaluation, and their means over the parts.

    One loader has no parts: `loss`, `accuracy`. A dict of loaders has a part for each of its names, a list one for each
    place in it: `accuracy/de` and so on, then `accuracy/mean`, the unweighted mean over all parts, and, where the
    language that was trained on is known, `accuracy/mean_unseen`, the mean over the others.

    Args:
        loaders: What the Trainer evaluates.
        metrics: Makes the metrics of a part, given its name.
        device: Where predictions are.
        seen: The language trained on, whether it is a part or not; `None` where the parts are no languages.

    Raises:
        ConfigurationError: If a part is called as a mean is.
    """

    def __init__(
        self,
        loaders: Any,
        metrics: Callable[[str | None], MetricCollection],
        *,
        device: torch.device,
        seen: str | None = None,
    ) -> None:
        self._seen = seen if isinstance(loaders, Mapping) else None  # places in a list are no languages
        self._parts = parts_of(loaders)
        require_no_mean(self._parts)
        self._losses = [WeightedMean().to(device) for _ in self._parts]
        self._metrics = [metrics(part).to(device) for part in self._parts]

    def update(self, index: int, loss: Tensor, weight: int | Tensor) -> MetricCollection:
        """Add the loss of a batch of the part at `index`, and return the part's metrics to be updated with it."""
        self._losses[index].update(loss, weight)
        return self._metrics[index]

    def compute(self) -> dict[str, Tensor]:
        """Return the values by name: of every part that had a batch, then the means."""
        by_metric: dict[str, dict[str | None, Tensor]] = {}
        for part, loss, metrics in zip(self._parts, self._losses, self._metrics, strict=True):
            if loss.update_called:
                for name, value in {"loss": loss.compute(), **metrics.compute()}.items():
                    by_metric.setdefault(name, {})[part] = value.float()
        return {name: value for metric, values in by_metric.items() for name, value in self._named(metric, values)}

    def _named(self, metric: str, values: dict[str | None, Tensor]) -> Iterator[tuple[str, Tensor]]:
        if list(values) == [None]:
            yield metric, values[None]
            return
        for part, value in values.items():
            yield f"{metric}/{part}", value
        yield f"{metric}/mean", torch.stack(list(values.values())).mean()
        unseen = [value for part, value in values.items() if part != self._seen]
        if unseen and self._seen is not None:
            yield f"{metric}/mean_unseen", torch.stack(unseen).mean()


def parts_of(loaders: Any) -> list[str | None]:
    """Return the names of the parts of what the Trainer evaluates; `[None]` for one loader."""
    if isinstance(loaders, Mapping):
        return list(loaders)
    if isinstance(loaders, list | tuple) and len(loaders) != 1:
        return [str(place) for place in range(len(loaders))]
    return [None]
