"""Optimizers of a resumed fit whose arguments differ from those of the previous run."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._lr_schedules import OF_SCHEDULERS, Schedules, have_same_rates

_NO_SETTINGS = {"params", "param_names", "initial_lr"}  # the last replaces `lr` if there is a scheduler
_UNSURE = {"betas", "momentum"}  # in a checkpoint of 0.1: some schedulers also change these
Made = dict[str, Any]


def follow_new(trainer: Trainer, checkpoint: dict[str, Any], before: list[Made] | None, made: list[Made]) -> None:
    """Change a checkpoint so that a resumed fit uses its own new arguments; everything else is restored bit for bit.

    A new learning rate or schedule holds from the resumed step as if it had held from the start: a scheduler that
    counts steps or epochs is advanced through those of the previous run. If an optimizer has several schedulers, or one
    that follows a metric, each keeps its progress and takes its new arguments, and the learning rate is scaled by the
    ratio of the initial ones. An optimizer of another class starts without a state. One line reports the changes.

    Args:
        trainer: The Trainer, with new optimizers and schedulers.
        checkpoint: The checkpoint, changed in place before it is restored.
        before: Arguments of the optimizers of the previous run; `None` in a checkpoint of 0.1, which does not store
            them.
        made: Arguments of the optimizers of this fit.

    Raises:
        ConfigurationError: If the parameters or the number of optimizers differ; if a schedule does not reach the step;
            if anything changes under a strategy that restores the optimizers itself.
    """
    if not trainer.strategy.lightning_restore_optimizer:
        _refuse_changes(trainer, before, made)
        return
    states, stored = checkpoint.get("optimizer_states"), checkpoint.get("lr_schedulers")
    if states is None or stored is None:  # a checkpoint of weights alone, which Lightning refuses
        return
    if len(states) != len(made):
        raise ConfigurationError(
            f"A resumed fit should have as many optimizers as the previous run: {len(states)}. Found {len(made)}."
        )
    before = before or _guessed(states, stored, made)
    schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    schedules[: len(stored)] = stored[: len(schedules)]
    changes: list[str] = []
    for index, (earlier, now) in enumerate(zip(before, made, strict=True)):
        changes += _follow(trainer, checkpoint, index, earlier, now, schedules)
    checkpoint["lr_schedulers"] = schedules
    if changes:
        rank_zero_info(f"The resumed fit differs from the previous run: {', '.join(dict.fromkeys(changes))}.")


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a parameter group, with the initial learning rate of its schedulers."""
    settings = {name: value for name, value in group.items() if name not in _NO_SETTINGS}
    return {**settings, "lr": group.get("initial_lr", group["lr"])}


def _follow(
    trainer: Trainer, checkpoint: dict[str, Any], index: int, before: Made, now: Made, schedules: list[dict[str, Any]]
) -> list[str]:
    """Apply the changes of one optimizer to the checkpoint; return their descriptions."""
    optimizer, states = trainer.optimizers[index], checkpoint["optimizer_states"]
    configs = [trainer.lr_scheduler_configs[entry["place"]] for entry in now["schedulers"]]
    schedulers = Schedules(before["schedulers"], now["schedulers"], configs)
    made = optimizer.state_dict()
    changes = []
    is_new = before["class"] != now["class"]
    if is_new:
        rank_zero_warn(
            f"The optimizer changes from `{before['class']}` to `{now['class']}`, which starts without a state at "
            f"step {checkpoint['global_step']}."
        )
        state, groups, rest, rates = {}, made["param_groups"], [], []
    else:
        state, groups = states[index]["state"], [dict(group) for group in states[index]["param_groups"]]
        groups, rest = (
            groups[: len(now["groups"])],
            groups[len(now["groups"]) :],
        )  # callbacks add the rest again
        _require_same_parameters(groups, made["param_groups"])
        for group, own, was, new in zip(groups, made["param_groups"], before["groups"], now["groups"], strict=False):
            for name in sorted(name for name in was.keys() & new.keys() if was[name] != new[name]):
                changes.append(f"`{name}` from {was[name]} to {new[name]}")
                group[name] = own[name] if name != "lr" else group[name]  # schedulers may have changed `lr`
        rates = [(was["lr"], new["lr"]) for was, new in zip(before["groups"], now["groups"], strict=False)]
    of_schedules = schedulers.changes()
    differ = is_new or bool(of_schedules) or any(was != new for was, new in rates)
    if differ or schedulers.are_unknown:
        settings, kept = schedulers.replay(optimizer, checkpoint) or (None, None)
        if settings is not None and not differ:
            of_schedules = [] if (is_same := have_same_rates(settings, groups)) else ["the schedule"]
            settings, kept = (None, None) if is_same else (settings, kept)
        elif settings is None and not is_new:
            settings, kept = schedulers.scaled(groups, rates, checkpoint["lr_schedulers"]) or (None, None)
        if settings is None and differ:
            settings, kept = schedulers.restarted(optimizer)
        for group, setting in zip(groups, settings or [], strict=False):
            group.update(setting)
        for entry, schedule in zip(schedulers.now, kept or [], strict=kept is not None):
            schedules[entry["place"]] = schedule
    states[index] = {"state": state, "param_groups": groups + rest}
    return changes + of_schedules


def _require_same_parameters(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
    sizes, new_sizes = ([len(group["params"]) for group in groups] for groups in (before, now))
    if sizes != new_sizes:
        raise ConfigurationError(
            f"A resumed fit should optimize the parameters of the previous run, in groups of {sizes} tensors. "
            f"Found groups of {new_sizes}."
        )


def _refuse_changes(trainer: Trainer, before: list[Made] | None, made: list[Made]) -> None:
    for earlier, now in zip(before or [], made, strict=False):
        if (earlier["class"], earlier["groups"]) != (now["class"], now["groups"]):
            raise ConfigurationError(
                f"Parameter `optimizer` should be the same as in the previous run under "
                f"`{type(trainer.strategy).__name__}`, which restores it whole. Found other settings."
            )


def _guessed(states: list[Any], stored: list[Any], made: list[Made]) -> list[Made]:
    """Return the arguments of the optimizers of a checkpoint of 0.1, as far as their states show them."""
    guessed: list[Made] = []
    for state, now in zip(states, made, strict=True):
        groups = [
            {name: list(value) if isinstance(value, tuple) else value for name, value in settings_of(group).items()}
            for group in state["param_groups"]
        ]
        if any(OF_SCHEDULERS & group.keys() - {"lr"} for group in groups):
            groups = [{name: value for name, value in group.items() if name not in _UNSURE} for group in groups]
        was, has = ({*kept[0]} - OF_SCHEDULERS - _UNSURE for kept in (groups, now["groups"]))
        is_same = was <= has or has <= was  # versions of torch differ in their settings
        schedulers = [{**entry, "made": None} for entry in now["schedulers"] if entry["place"] < len(stored)]
        guessed.append({"class": now["class"] if is_same else "another", "groups": groups, "schedulers": schedulers})
    lost = range(sum(len(now["schedulers"]) for now in made), len(stored))
    guessed[-1]["schedulers"] += [{"class": "another", "interval": "", "place": index, "made": None} for index in lost]
    return guessed
