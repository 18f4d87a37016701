"""Learning rates of a resumed fit whose schedule, or the learning rate it starts with, is another one."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._torch import LAST_RATES

# what schedulers keep in a group of parameters
OF_SCHEDULERS = {"lr", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"}
_OF_RATES = {"base_lrs", LAST_RATES}
_SAME = 1e-6  # relative: one schedule, computed twice
Entry = Mapping[str, Any]
Followed = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # what is set in each group, the state of each scheduler


@dataclass(frozen=True)
class Schedules:
    """The schedulers of one optimizer, in the run before and now.

    Args:
        before: For each of the run before its class, its interval, its place among the states of the checkpoint, and
            what it was made with, as plain values; `None` for the last in a checkpoint of 0.1, which does not say.
        now: The same for each of this fit.
        configs: What Lightning has of each of this fit.
    """

    before: Sequence[Entry]
    now: Sequence[Entry]
    configs: Sequence[Any]

    @property
    def are_unknown(self) -> bool:
        """Whether a checkpoint of 0.1 does not say what they were made with."""
        return self._have_same_classes and any(entry["made"] is None for entry in self.before)

    @property
    def _have_same_classes(self) -> bool:
        return [entry["class"] for entry in self.before] == [entry["class"] for entry in self.now]

    @property
    def _counts(self) -> bool:
        """Whether there is one, and it goes by the number of steps or epochs."""
        return len(self.configs) == 1 and not isinstance(self.configs[0].scheduler, ReduceLROnPlateau)

    def changes(self) -> list[str]:
        """Return what to say of what is known to be another scheduler, or to have other arguments."""
        if not self._have_same_classes:
            were, are = (", ".join(map(_short, entries)) or "none" for entries in (self.before, self.now))
            return [f"the scheduler from {were} to {are}"]
        changes = []
        for before, now in zip(self.before, self.now, strict=True):
            names = sorted(_differing(before, now) - _OF_RATES)
            shown = [name for name in names if not name.startswith("_")]
            changes += [f"`{_short(now)}.{name}` from {before['made'][name]} to {now['made'][name]}" for name in shown]
            if names and not shown:
                changes.append(f"the arguments of {_short(now)}")
        return changes

    def replay(self, optimizer: Optimizer, checkpoint: Mapping[str, Any]) -> Followed | None:
        """Take a scheduler that counts to the resumed step; `None` if there is another one, or several."""
        if not self._counts:
            return None
        scheduler = self.configs[0].scheduler
        made = [dict(group) for group in optimizer.param_groups]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of steps before the optimizer's
                for _ in range(self._done(checkpoint)):
                    scheduler.step()
        except Exception as error:  # whatever a scheduler raises behind its end
            raise ConfigurationError(
                f"Parameter `lr_scheduler` should be a schedule that reaches the resumed step. "
                f"Found `{_short(self.now[0])}`: {error}"
            ) from error
        settings = [
            {name: value for name, value in group.items() if name in OF_SCHEDULERS or value is not before.get(name)}
            for before, group in zip(made, optimizer.param_groups, strict=True)
        ]
        return settings, [scheduler.state_dict()]

    def anew(self, optimizer: Optimizer) -> Followed:
        """Return what holds where all schedulers start anew."""
        settings = [{name: group[name] for name in OF_SCHEDULERS & group.keys()} for group in optimizer.param_groups]
        return settings, [config.scheduler.state_dict() for config in self.configs]

    def _done(self, checkpoint: Mapping[str, Any]) -> int:
        """Return how many steps the scheduler would have made in the run before."""
        now, frequency = self.now[0], int(self.configs[0].frequency)
        if len(self.before) == 1 and self.before[0]["interval"] in {now["interval"], ""}:
            done = checkpoint["lr_schedulers"][self.before[0]["place"]].get("last_epoch")
            if done is not None:
                return int(done)
        if now["interval"] == "step":
            return int(checkpoint["global_step"]) // frequency
        return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]) // frequency

    def scaled(
        self, stored: Sequence[Entry], rates: Sequence[tuple[float, float]], states: Sequence[dict[str, Any]]
    ) -> Followed | None:
        """Have schedulers keep their progress and take their new arguments; `None` if they are not the same ones.

        Args:
            stored: The groups of the checkpoint.
            rates: The learning rate that each group started with in the run before, and does now.
            states: The states of the schedulers in the checkpoint.
        """
        if not self.now or not self._have_same_classes:
            return None
        scales = [now / before if before else 1.0 for before, now in rates]
        kept = []
        for before, now, config in zip(self.before, self.now, self.configs, strict=True):
            made, state = config.scheduler.state_dict(), dict(states[before["place"]])
            state |= {name: made[name] for name in _differing(before, now) - _OF_RATES}
            if "base_lrs" in state:
                state["base_lrs"] = [*(rate for _, rate in rates), *state["base_lrs"][len(rates) :]]
            if LAST_RATES in state:
                last = state[LAST_RATES]
                scaled = [rate * scale for rate, scale in zip(last, scales, strict=False)]
                state[LAST_RATES] = scaled + last[len(scales) :]
            kept.append(state)
        settings = [
            {"lr": group["lr"] * scale, **({"initial_lr": rate} if "initial_lr" in group else {})}
            for group, scale, (_, rate) in zip(stored, scales, rates, strict=False)
        ]
        return settings, kept


def have_same_rates(settings: Sequence[Entry], stored: Sequence[Entry]) -> bool:
    """Whether a replayed schedule arrives where that of the checkpoint stands."""
    pairs = zip(settings, stored, strict=True)
    return all(isclose(float(one["lr"]), float(other["lr"]), rel_tol=_SAME, abs_tol=1e-12) for one, other in pairs)


def _differing(before: Entry, now: Entry) -> set[str]:
    """Return the arguments that a scheduler is given otherwise."""
    made = before["made"] or {}
    return {name for name in made.keys() & now["made"].keys() if made[name] != now["made"][name]}


def _short(entry: Entry) -> str:
    return str(entry["class"].rpartition(".")[2])
