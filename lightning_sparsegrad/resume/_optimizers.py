"""Optimizers of a resumed fit that are made otherwise than those of the run before."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._lr_schedules import OF_SCHEDULERS, Schedules, have_same_rates

_NO_SETTINGS = {"params", "param_names", "initial_lr"}  # the last stands for `lr` where there is a scheduler
_UNSURE = {"betas", "momentum"}  # in a checkpoint of 0.1: some schedulers change these as well
Made = dict[str, Any]


def follow_new(trainer: Trainer, checkpoint: dict[str, Any], before: list[Made] | None, made: list[Made]) -> None:
    """Have a checkpoint restore what a fit makes otherwise than the run that wrote it; all else stays, bit for bit.

    Another learning rate or schedule is followed from the resumed step on as if it had been from the start: a scheduler
    that counts steps or epochs is taken through those of the run before. Of several for one optimizer, or one that goes
    by a metric, each keeps its progress and takes its new arguments, and the learning rate is scaled by as much as the
    one it started with. An optimizer of another class starts without a state. One line says what changes.

    Args:
        trainer: The Trainer, with new optimizers and schedulers.
        checkpoint: The checkpoint, which is changed before it is restored.
        before: What the optimizers of the run before were made with; `None` in a checkpoint of 0.1, which does not say.
        made: What those of this fit are made with.

    Raises:
        ConfigurationError: If there are other parameters or another number of optimizers; if a schedule does not reach
            the step; if anything changes under a strategy that restores the optimizers itself.
    """
    if not trainer.strategy.lightning_restore_optimizer:
        _refuse_changes(trainer, before, made)
        return
    states, stored = checkpoint.get("optimizer_states"), checkpoint.get("lr_schedulers")
    if states is None or stored is None:  # weights alone, which Lightning refuses
        return
    if len(states) != len(made):
        raise ConfigurationError(
            f"A resumed fit should have as many optimizers as the run before: {len(states)}. Found {len(made)}."
        )
    before = before or _guessed(states, stored, made)
    schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    schedules[: len(stored)] = stored[: len(schedules)]
    changes: list[str] = []
    for index, (earlier, now) in enumerate(zip(before, made, strict=True)):
        changes += _follow(trainer, checkpoint, index, earlier, now, schedules)
    checkpoint["lr_schedulers"] = schedules
    if changes:
        rank_zero_info(f"The resumed fit differs from the run before: {', '.join(dict.fromkeys(changes))}.")


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group of parameters, with the learning rate that its schedulers start from."""
    settings = {name: value for name, value in group.items() if name not in _NO_SETTINGS}
    return {**settings, "lr": group.get("initial_lr", group["lr"])}


def _follow(
    trainer: Trainer, checkpoint: dict[str, Any], index: int, before: Made, now: Made, schedules: list[dict[str, Any]]
) -> list[str]:
    """Follow what changes about one optimizer; return what to say of it."""
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
        groups, rest = groups[: len(now["groups"])], groups[len(now["groups"]) :]  # callbacks add some, and do so again
        _require_same_parameters(groups, made["param_groups"])
        for group, own, was, new in zip(groups, made["param_groups"], before["groups"], now["groups"], strict=False):
            for name in sorted(name for name in was.keys() & new.keys() if was[name] != new[name]):
                changes.append(f"`{name}` from {was[name]} to {new[name]}")
                group[name] = own[name] if name != "lr" else group[name]  # which its schedulers may have changed
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
            settings, kept = schedulers.anew(optimizer)
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
            f"A resumed fit should optimize the parameters of the run before, in groups of {sizes} tensors. "
            f"Found groups of {new_sizes}."
        )


def _refuse_changes(trainer: Trainer, before: list[Made] | None, made: list[Made]) -> None:
    for earlier, now in zip(before or [], made, strict=False):
        if (earlier["class"], earlier["groups"]) != (now["class"], now["groups"]):
            raise ConfigurationError(
                f"Parameter `optimizer` should be what it was in the run before under "
                f"`{type(trainer.strategy).__name__}`, which restores it whole. Found other settings."
            )


def _guessed(states: list[Any], stored: list[Any], made: list[Made]) -> list[Made]:
    """Return what the optimizers of a checkpoint of 0.1 were made with, as far as their states tell."""
    guessed: list[Made] = []
    for state, now in zip(states, made, strict=True):
        groups = [
            {name: list(value) if isinstance(value, tuple) else value for name, value in settings_of(group).items()}
            for group in state["param_groups"]
        ]
        if any(OF_SCHEDULERS & group.keys() - {"lr"} for group in groups):
            groups = [{name: value for name, value in group.items() if name not in _UNSURE} for group in groups]
        was, has = ({*kept[0]} - OF_SCHEDULERS - _UNSURE for kept in (groups, now["groups"]))
        is_same = was <= has or has <= was  # other versions of torch have more or less
        schedulers = [{**entry, "made": None} for entry in now["schedulers"] if entry["place"] < len(stored)]
        guessed.append({"class": now["class"] if is_same else "another", "groups": groups, "schedulers": schedulers})
    lost = range(sum(len(now["schedulers"]) for now in made), len(stored))
    guessed[-1]["schedulers"] += [{"class": "another", "interval": "", "place": index, "made": None} for index in lost]
    return guessed
