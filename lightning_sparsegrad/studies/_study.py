"""The config of a study: arms, settings and seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, get_args

from lightning_sparsegrad.errors import ConfigurationError, require_one_of
from lightning_sparsegrad.studies._inference import pairs_needed

Overlay = str | dict[str, Any]
Mode = Literal["max", "min"]
Select = Literal["last", "best"]
_LARGEST_SEED = 2**32 - 1  # numpy's


@dataclass(frozen=True)
class Trial:
    """The changes that make the quick version of a study, which tries the whole procedure and gives no result.

    Args:
        seeds: The number of seeds, or the seeds.
        overlays: Overlays added after the base.
        arms: The arms to keep; by default all.
        settings: The values to keep of each axis of the grid; by default all.
    """

    seeds: int | list[int] = 2
    overlays: list[Overlay] = field(default_factory=list)
    arms: list[str] | None = None
    settings: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A comparison of arms; each arm is fitted in every setting with every seed by an ordinary `fit`.

    An overlay is a config file, or a mapping of arguments such as `{model.gradient_transform.rate: 0.4}`. Overlays
    apply in order, like `--config FILE` and `--NAME=VALUE` on the command line.

    Args:
        base: Overlays that all runs share.
        arms: Name to overlays.
        seeds: The number of seeds, or the seeds. A seed is the run's `seed_everything`, which seeds model, data and
            masks.
        metric: The logged name of the metric to compare, such as `val/accuracy`.
        baseline: The arm that the others are compared with; by default the first.
        mode: Whether the metric is better when it is higher (`max`) or lower (`min`).
        select: Whether a run counts with its last validation or with its best.
        grid: The axes of the settings: an argument with its values, or a name of your choice with overlays by label.
            Every combination is a setting. Arms are compared within a setting, and their overlays apply after its own.
        failed_at: A run has failed if its metric is no better than this value. A run that diverged (weights or
            validation loss are not finite at its end) counts with this value. By default the score of always
            predicting the most frequent class of the validation split, if the task classifies texts.
        groups: Name to parts of the data, for tables of means over them: `{under-resourced: [sw, am, yo]}`.
        gradients_every: Record what the strategy does every this many optimizer steps (`GradientMonitor`); `None` for
            never.
        distances_every: Record how far weights moved every this many optimizer steps (`PretrainedDistance`); `None`
            for never.
        checkpoints: Whether runs keep checkpoints.
        needs: Files and folders that the runs read, each with a sentence that says how to make it.
        trial: The changes that `--quick` makes.

    Raises:
        ConfigurationError: If there is no arm or no seed, or a name does not exist.
    """

    base: list[Overlay]
    arms: dict[str, list[Overlay]]
    seeds: int | list[int]
    metric: str
    baseline: str | None = None
    mode: Mode = "max"
    select: Select = "last"
    grid: dict[str, Any] = field(default_factory=dict)
    failed_at: float | None = None
    groups: dict[str, list[str]] = field(default_factory=dict)
    gradients_every: int | None = 20
    distances_every: int | None = None
    checkpoints: bool = False
    needs: dict[str, str] = field(default_factory=dict)
    trial: Trial = field(default_factory=Trial)

    def __post_init__(self) -> None:
        if not self.arms:
            raise ConfigurationError("Parameter `arms` should hold an arm. Found `arms = {}`.")
        self._check_names()
        self._check_grid()
        for name in ("gradients_every", "distances_every"):
            every = getattr(self, name)
            if every is not None and every < 1:
                raise ConfigurationError(f"Parameter `{name}` should be positive or null. Found `{name} = {every}`.")
        if not self.all_seeds:
            raise ConfigurationError(f"Parameter `seeds` should hold a seed. Found `seeds = {self.seeds}`.")
        each_once = len(set(self.all_seeds)) == len(self.all_seeds)
        if not each_once or min(self.all_seeds) < 0 or max(self.all_seeds) > _LARGEST_SEED:
            raise ConfigurationError(
                f"Parameter `seeds` should hold non-negative numbers up to {_LARGEST_SEED}, each once. "
                f"Found `seeds = {self.seeds}`."
            )
        require_one_of("baseline", self.reference, list(self.arms))
        require_one_of("mode", self.mode, list(get_args(Mode)))
        require_one_of("select", self.select, list(get_args(Select)))
        for axis, kept in self.trial.settings.items():
            require_one_of("trial.settings", axis, list(self.grid))
            for value in kept:
                require_one_of(f"trial.settings.{axis}", value, list(self.grid[axis]))
        for arm in self.trial.arms or ():
            require_one_of("trial.arms", arm, list(self.arms))
        if self.baseline and self.trial.arms and self.baseline not in self.trial.arms:
            raise ConfigurationError(
                f"Parameter `trial.arms` should hold the baseline, `{self.baseline}`. "
                f"Found `trial.arms = {self.trial.arms}`."
            )

    def _check_names(self) -> None:
        labels = {axis: values for axis, values in self.grid.items() if isinstance(values, Mapping)}
        for where, names in {"arms": self.arms, **{f"grid.{axis}": values for axis, values in labels.items()}}.items():
            for name in names:
                if not isinstance(name, str):
                    raise ConfigurationError(
                        f"Parameter `{where}` should have names that are text: quote those that YAML reads as "
                        f"something else. Found `{name!r}`."
                    )

    def _check_grid(self) -> None:
        for axis, values in self.grid.items():
            if not isinstance(values, Mapping | Sequence) or isinstance(values, str) or not values:
                raise ConfigurationError(
                    f"Parameter `grid` should give `{axis}` a list of values, or overlays by label. "
                    f"Found `{axis} = {values!r}`."
                )
            for label, overlays in values.items() if isinstance(values, Mapping) else ():
                if not isinstance(overlays, list) or not all(isinstance(overlay, str | dict) for overlay in overlays):
                    raise ConfigurationError(
                        f"Parameter `grid.{axis}` should give `{label}` a list of files and arguments by name. "
                        f"Found `{label} = {overlays!r}`."
                    )

    @property
    def all_seeds(self) -> list[int]:
        """The seeds."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        return self.baseline or next(iter(self.arms))

    @property
    def sign(self) -> int:
        """1 if a higher metric is better, -1 if a lower one is."""
        return 1 if self.mode == "max" else -1

    @property
    def warning(self) -> str:
        """A warning if there are too few seeds to show that a mean differs; else an empty string."""
        needed = pairs_needed(len(self.arms) - 1) if len(self.arms) > 1 else 1
        if len(self.all_seeds) >= needed:
            return ""
        return (
            f"With {len(self.arms)} arms it takes {needed} seeds to show that the mean of one differs from that of "
            f"`{self.reference}`, however large the difference is. There are {len(self.all_seeds)}."
        )

    def settings(self) -> Iterator[tuple[str, list[Overlay]]]:
        """Yield the name and the overlays of each setting; without a grid, one setting with an empty name."""
        axes = [
            [(label, list(overlays)) for label, overlays in values.items()]
            if isinstance(values, Mapping)
            else [(f"{axis.rpartition('.')[2]}={value}", [{axis: value}]) for value in values]
            for axis, values in self.grid.items()
        ]
        for choice in product(*axes):
            yield ", ".join(label for label, _ in choice), [overlay for _, overlays in choice for overlay in overlays]

    def quickened(self) -> "Study":
        """Return the quick version of the study."""
        arms = {name: overlays for name, overlays in self.arms.items() if name in (self.trial.arms or self.arms)}
        grid = {
            axis: _kept(values, self.trial.settings[axis]) if axis in self.trial.settings else values
            for axis, values in self.grid.items()
        }
        fields = {**vars(self), "arms": arms, "grid": grid, "seeds": self.trial.seeds}
        return Study(**{**fields, "base": [*self.base, *self.trial.overlays], "trial": Trial()})


def _kept(values: Any, kept: list[Any]) -> Any:
    if isinstance(values, Mapping):
        return {label: overlays for label, overlays in values.items() if label in kept}
    return [value for value in values if value in kept]
