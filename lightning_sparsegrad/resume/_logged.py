"""The metrics of the epoch so far: the running means of `self.log`, and the states of metrics in the module."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor
from torchmetrics import Metric

from lightning_sparsegrad.resume._lightning import new_result, results, seen_metrics, set_first_batch, sync_of
from lightning_sparsegrad.resume._torchmetrics import set_step_value, set_update_count, step_value

# Lightning keeps none of this in its checkpoints
_META = (
    *("fx", "name", "prog_bar", "logger", "on_step", "on_epoch"),
    *("enable_graph", "add_dataloader_idx", "dataloader_idx", "metric_attribute"),
)
# all reductions of `self.log`, by the names that checkpoints may contain
_REDUCTIONS = {
    **{f"torch.{each.__name__}": each for each in (torch.mean, torch.sum, torch.max, torch.min)},
    **{each.__name__: each for each in (sum, max, min)},
}


def metric_states(trainer: Trainer, *, ended: bool = False) -> dict[str, Any]:
    """Return the metrics logged and measured in the epoch so far, as numbers and tensors on the CPU.

    Args:
        trainer: The Trainer.
        ended: Whether the epoch is over, so that nothing is carried into the next.
    """
    states = {
        "modules": {} if ended else module_metrics(trainer.lightning_module),
        "results": {} if ended else {key: _result_state(result) for key, result in results(trainer).items()},
        "seen": {name: dict(metrics) for name, metrics in seen_metrics(trainer).items()},
    }
    return move_data_to_device(states, "cpu")  # type: ignore[no-any-return]


def set_metric_states(trainer: Trainer, states: dict[str, Any], *, within_epoch: bool) -> None:
    """Restore what `metric_states` returned; within an epoch, continue its running means."""
    device = trainer.strategy.root_device
    metrics = _metrics(trainer.lightning_module)
    set_module_metrics(trainer.lightning_module, states["modules"])
    for key, state in states["results"].items():
        if (result := _result(trainer, state, metrics)) is not None:
            results(trainer)[key] = result.to(device)
    for name, seen in seen_metrics(trainer).items():
        seen.update(move_data_to_device(states["seen"][name], device))
    set_first_batch(trainer, within_epoch=within_epoch)


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
    """Return the tensors that a metric keeps outside its state, such as the extremes of a MinMaxMetric."""
    own = {name for name, value in vars(metric).items() if isinstance(value, Tensor) and not name.startswith("_")}
    return sorted(own - set(metric.metric_state))


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else [_kept(each) for each in value]


def _set_state(metric: Metric, state: dict[str, Any]) -> None:
    for names, values in ((metric.metric_state, state["state"]), (_beside(metric), state["beside"])):
        for name in names:
            if name in values:
                setattr(metric, name, move_data_to_device(values[name], metric.device))
    set_update_count(metric, state["count"])


def _result_state(result: Any) -> dict[str, Any]:
    meta, cache = result.meta, step_value(result)
    return {
        "meta": {name: getattr(meta, name) for name in _META},
        "sync": sync_of(meta),
        "reduce": next(name for name, reduction in _REDUCTIONS.items() if reduction is meta.reduce_fx),
        "count": result.update_count,
        "metric": _state(result) if result.is_tensor else None,
        "cache": _kept(cache) if isinstance(cache, Tensor) else None,
        "reset": result.has_reset,
    }


def _result(trainer: Trainer, state: dict[str, Any], metrics: dict[str, Metric]) -> Any:
    """Return an entry of the results; `None` if its metric no longer exists."""
    reduction, over, is_tensor = _REDUCTIONS[state["reduce"]], trainer.strategy.reduce, state["metric"] is not None
    result = new_result(state["meta"], state["sync"], reduction, over=over, is_tensor=is_tensor)
    if state["metric"] is not None:
        _set_state(result, state["metric"])
    elif state["meta"]["metric_attribute"] in metrics:
        result.value = metrics[state["meta"]["metric_attribute"]]
    else:
        return None
    set_step_value(result, state["cache"])
    set_update_count(result, state["count"])
    result.has_reset = state["reset"]
    return result
