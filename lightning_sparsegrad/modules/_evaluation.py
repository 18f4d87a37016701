"""Metrics for each part of the data, such as a language or one of several validation sets."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_sparsegrad.data._checks import require_no_mean
from lightning_sparsegrad.data.samplers import is_filler, repeated_rows
from lightning_sparsegrad.metrics import WeightedMean

_States = dict[str, Tensor | int]  # for a list, its length


class Evaluation:
    """The loss and the metrics of each part of an evaluation, and their means over the parts.

    A single loader has no parts and gives `loss` and `accuracy`. A dict of loaders has one part per name, a list one
    per index. They give `accuracy/de` and so on; `accuracy/mean`, the unweighted mean over all parts; and, if the
    training language is known, `accuracy/mean_unseen`, the mean over the other languages.

    With several processes, the values are those of all rows together. Each row counts once if the loaders use an
    `UnrepeatedSampler`, even if processes have different numbers of rows, or none. Otherwise a warning gives the number
    of rows that count twice.

    Args:
        loaders: The loaders that the Trainer evaluates.
        metrics: A function from the name of a part to its new metrics.
        device: The device of the predictions.
        seen: The training language, whether it is a part or not; `None` if the parts are not languages.

    Raises:
        ConfigurationError: If a part has the name of a mean.
    """

    def __init__(
        self,
        loaders: Any,
        metrics: Callable[[str | None], MetricCollection],
        *,
        device: torch.device,
        seen: str | None = None,
    ) -> None:
        self._seen = seen if isinstance(loaders, Mapping) else None  # indices of a list are not languages
        self._parts, self._loaders = parts_of(loaders), loaders_of(loaders)
        require_no_mean(self._parts)
        _warn_of_repeated_rows(self._loaders)
        self._losses = [WeightedMean().to(device) for _ in self._parts]
        self._metrics = [metrics(part).to(device) for part in self._parts]
        self._before_filler: dict[int, list[_States]] = {}  # states of the metrics, by the index of their part

    def update(self, index: int, batch_idx: int, loss: Tensor, weight: int | Tensor) -> MetricCollection:
        """Add the loss of a batch of the part at `index`, and return the metrics of that part for an update."""
        if is_filler(self._loaders[index], batch_idx):
            weight = 0
            self._before_filler[index] = [_states_of(metric) for metric in self._metrics[index].values()]
        self._losses[index].update(loss, weight)
        return self._metrics[index]

    def compute(self) -> dict[str, Tensor]:
        """Return the values by name: those of every part that had a batch, then the means."""
        by_metric: dict[str, dict[str | None, Tensor]] = {}
        for index, before in self._before_filler.items():
            for metric, states in zip(self._metrics[index].values(), before, strict=True):
                _take_out(metric, states)
        for part, loss, metrics in zip(self._parts, self._losses, self._metrics, strict=True):
            if loss.was_updated():
                for name, value in {"loss": loss.compute(), **metrics.compute()}.items():
                    by_metric.setdefault(name, {})[part] = value.float()
        return {name: value for metric, values in by_metric.items() for name, value in self._named(metric, values)}

    def names(self, stage: str) -> dict[str, bool | None]:
        """Return the names that a stage logs, and whether a higher value is better, if known."""
        by_name: dict[str, bool | None] = {}
        nothing = dict.fromkeys(self._parts, torch.tensor(0.0))
        for metrics in self._metrics:
            for metric, higher in {
                "loss": False,
                **{name: each.higher_is_better for name, each in metrics.items()},
            }.items():
                by_name |= {f"{stage}/{name}": higher for name, _ in self._named(metric, nothing)}
        return by_name

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


def _states_of(metric: Metric) -> _States:
    return {
        name: len(state) if isinstance(state, list) else state.clone() for name, state in metric.metric_state.items()
    }


def _take_out(metric: Metric, before: _States) -> None:
    """Remove a filler from a metric, but leave an empty entry in its lists.

    Processes exchange lists entry by entry, and take type and shape from the entries.
    """
    for name, known in before.items():
        if isinstance(known, int):
            state = getattr(metric, name)
            setattr(
                metric, name, [*state[:known], *((each if each.ndim else each[None])[:0] for each in state[known:])]
            )
        else:
            setattr(metric, name, known)


def _warn_of_repeated_rows(loaders: list[Any]) -> None:
    if repeated := sum(map(repeated_rows, loaders)):
        rank_zero_warn(
            f"{repeated} of the rows to evaluate count twice: Lightning's `DistributedSampler` repeats them to give "
            f"each process the same number. A data module of this library counts each row once, and so does "
            f"`DataLoader(rows, batch_size, sampler=UnrepeatedSampler(rows, batch_size))`."
        )


def loaders_of(loaders: Any) -> list[Any]:
    """Return the loaders that the Trainer evaluates, in the order of `parts_of`."""
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]


def parts_of(loaders: Any) -> list[str | None]:
    """Return the names of the parts that the Trainer evaluates; `[None]` for a single loader."""
    if isinstance(loaders, Mapping):
        return list(loaders)
    if isinstance(loaders, list | tuple) and len(loaders) != 1:
        return [str(index) for index in range(len(loaders))]
    return [None]
