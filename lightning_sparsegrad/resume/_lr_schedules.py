"""Learning rates of a resumed fit whose schedule or initial learning rate has changed."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._torch import LAST_RATES

# keys that schedulers keep in a parameter group
OF_SCHEDULERS = {"lr", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"}
_OF_RATES = {"base_lrs", LAST_RATES}
_SAME = 1e-6  # relative: one schedule, computed twice
Entry = Mapping[str, Any]
Followed = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # the settings of each group, the state of each scheduler


@dataclass(frozen=True)
class Schedules:
    """The schedulers of one optimizer, in the previous run and in this one.

    Args:
        before: For each scheduler of the previous run its class, its interval, its index among the states of the
            checkpoint, and its arguments as plain values; these are `None` in a checkpoint of 0.1, which does not store
            them.
        now: The same for each scheduler of this fit.
        configs: Lightning's config of each scheduler of this fit.
    """

    before: Sequence[Entry]
    now: Sequence[Entry]
    configs: Sequence[Any]

    @property
    def are_unknown(self) -> bool:
        """Whether the previous arguments are unknown, as in a checkpoint of 0.1."""
        return self._have_same_classes and any(entry["made"] is None for entry in self.before)

    @property
    def _have_same_classes(self) -> bool:
        return [entry["class"] for entry in self.before] == [entry["class"] for entry in self.now]

    @property
    def _counts(self) -> bool:
        """Whether there is exactly one scheduler, and it depends on the number of steps or epochs alone."""
        return len(self.configs) == 1 and not isinstance(self.configs[0].scheduler, ReduceLROnPlateau)

    def changes(self) -> list[str]:
        """Return descriptions of the schedulers that were replaced or have other arguments."""
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
        """Advance a counting scheduler to the resumed step; `None` if it does not count, or there are several."""
        if not self._counts:
            return None
        scheduler = self.configs[0].scheduler
        made = [dict(group) for group in optimizer.param_groups]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns about steps before the optimizer's
                for _ in range(self._done(checkpoint)):
                    scheduler.step()
        except Exception as error:  # any error that a scheduler raises past its end
            raise ConfigurationError(
                f"Parameter `lr_scheduler` should be a schedule that reaches the resumed step. "
                f"Found `{_short(self.now[0])}`: {error}"
            ) from error
        settings = [
            {name: value for name, value in group.items() if name in OF_SCHEDULERS or value is not before.get(name)}
            for before, group in zip(made, optimizer.param_groups, strict=True)
        ]
        return settings, [scheduler.state_dict()]

    def restarted(self, optimizer: Optimizer) -> Followed:
        """Return the settings and states if all schedulers restart."""
        settings = [{name: group[name] for name in OF_SCHEDULERS & group.keys()} for group in optimizer.param_groups]
        return settings, [config.scheduler.state_dict() for config in self.configs]

    def _done(self, checkpoint: Mapping[str, Any]) -> int:
        """Return the number of steps that the scheduler would have made in the previous run."""
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
        """Let schedulers keep their progress and take their new arguments; `None` if their classes differ.

        Args:
            stored: The groups of the checkpoint.
            rates: The initial learning rate of each group in the previous run and in this one.
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
    """Return whether a replayed schedule reaches the learning rates of the checkpoint."""
    pairs = zip(settings, stored, strict=True)
    return all(isclose(float(one["lr"]), float(other["lr"]), rel_tol=_SAME, abs_tol=1e-12) for one, other in pairs)


def _differing(before: Entry, now: Entry) -> set[str]:
    """Return the arguments of a scheduler that have changed."""
    made = before["made"] or {}
    return {name for name in made.keys() & now["made"].keys() if made[name] != now["made"][name]}


def _short(entry: Entry) -> str:
    return str(entry["class"].rpartition(".")[2])
