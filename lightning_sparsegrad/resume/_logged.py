"""The epoch so far: the running means of `self.log`, and the states of metrics in the module."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor
from torchmetrics import Metric

# Lightning keeps none of this in its checkpoints, and has no public name for it
_META = (
    *("fx", "name", "prog_bar", "logger", "on_step", "on_epoch"),
    *("enable_graph", "add_dataloader_idx", "dataloader_idx", "metric_attribute"),
)
# all that `self.log` takes; named in checkpoints, which may not name anything else
_REDUCTIONS = {
    **{f"torch.{each.__name__}": each for each in (torch.mean, torch.sum, torch.max, torch.min)},
    **{each.__name__: each for each in (sum, max, min)},
}
_SEEN = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")


def metric_states(trainer: Trainer, *, ended: bool = False) -> dict[str, Any]:
    """Return what the epoch has logged and measured so far, as numbers and tensors on the CPU.

    Args:
        trainer: The Trainer.
        ended: Whether another epoch begins, so that nothing was seen of it.
    """
    connector = trainer._logger_connector
    results = trainer.fit_loop.epoch_loop._results
    states = {
        "modules": {} if ended else module_metrics(trainer.lightning_module),
        "results": {} if ended else {key: _result_state(result) for key, result in results.items()},
        "seen": {name: dict(getattr(connector, name)) for name in _SEEN},
    }
    return move_data_to_device(states, "cpu")  # type: ignore[no-any-return]


def set_metric_states(trainer: Trainer, states: dict[str, Any], *, within_epoch: bool) -> None:
    """Restore what `metric_states` returned; within an epoch, have its running means go on."""
    connector, device = trainer._logger_connector, trainer.strategy.root_device
    metrics = _metrics(trainer.lightning_module)
    set_module_metrics(trainer.lightning_module, states["modules"])
    for key, state in states["results"].items():
        if (result := _result(trainer, state, metrics)) is not None:
            trainer.fit_loop.epoch_loop._results[key] = result.to(device)
    for name in _SEEN:
        getattr(connector, name).update(move_data_to_device(states["seen"][name], device))
    connector._first_loop_iter = False if within_epoch else None


def module_metrics(module: LightningModule) -> dict[str, Any]:
    """Return the states of the metrics in a module."""
    return {name: _state(metric) for name, metric in _metrics(module).items()}


def set_module_metrics(module: LightningModule, states: dict[str, Any]) -> None:
    """Restore what `module_metrics` returned."""
    metrics = _metrics(module)
    for name in states.keys() & metrics.keys():
        _set_state(metrics[name], states[name])


def _metrics(module: LightningModule) -> dict[str, Metric]:
    return {name: metric for name, metric in module.named_modules() if isinstance(metric, Metric)}


def _state(metric: Metric) -> dict[str, Any]:
    return {
        "count": metric.update_count,
        "state": {name: _kept(value) for name, value in metric.metric_state.items()},
        "beside": {name: _kept(getattr(metric, name)) for name in _beside(metric)},
    }


def _beside(metric: Metric) -> list[str]:
    """Return what a metric keeps in tensors without saying so, as the extremes of a MinMaxMetric."""
    own = {name for name, value in vars(metric).items() if isinstance(value, Tensor) and not name.startswith("_")}
    return sorted(own - set(metric.metric_state))


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else [_kept(each) for each in value]


def _set_state(metric: Metric, state: dict[str, Any]) -> None:
    for names, values in ((metric.metric_state, state["state"]), (_beside(metric), state["beside"])):
        for name in names:
            if name in values:
                setattr(metric, name, move_data_to_device(values[name], metric.device))
    metric._update_count, metric._computed = state["count"], None


def _result_state(result: _ResultMetric) -> dict[str, Any]:
    meta, cache = result.meta, result._forward_cache
    return {
        "meta": {name: getattr(meta, name) for name in _META},
        "sync": {"_should": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only},
        "reduce": next(name for name, reduction in _REDUCTIONS.items() if reduction is meta.reduce_fx),
        "count": result.update_count,
        "metric": _state(result) if result.is_tensor else None,
        "cache": _kept(cache) if isinstance(cache, Tensor) else None,
        "reset": result.has_reset,
    }


def _result(trainer: Trainer, state: dict[str, Any], metrics: dict[str, Metric]) -> _ResultMetric | None:
    meta = _Metadata(**state["meta"], reduce_fx=_REDUCTIONS[state["reduce"]])
    meta.sync = _Sync(fn=trainer.strategy.reduce, **state["sync"])
    result = _ResultMetric(meta, is_tensor=state["metric"] is not None)
    if state["metric"] is not None:
        _set_state(result, state["metric"])
    elif meta.metric_attribute in metrics:
        result.value = metrics[meta.metric_attribute]
    else:
        return None
    result._forward_cache, result.has_reset, result._update_count = state["cache"], state["reset"], state["count"]
    return result
