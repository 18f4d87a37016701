"""The config of a study: arms, in settings, over seeds."""

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
    """What the quick version of a study has instead: a trial of the whole way, not a result.

    Args:
        seeds: As in `Study`.
        overlays: What comes over the base.
        arms: The arms that are kept, all by default.
        settings: The values of the grid's axes that are kept, all by default.
    """

    seeds: int | list[int] = 2
    overlays: list[Overlay] = field(default_factory=list)
    arms: list[str] | None = None
    settings: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A comparison of arms: each is run in every setting with every seed, as an ordinary `fit`.

    An overlay is a config file, or arguments by name: `{model.gradient_transform.rate: 0.4}`; files and arguments mean
    what they mean on the command line, `--config FILE` and `--NAME=VALUE`, in their order.

    Args:
        base: Overlays that all runs share.
        arms: Name to overlays.
        seeds: How many, or which. A seed is the run's `seed_everything`: of the model, the data and the masks.
        metric: The name under which what is compared is logged, `val/accuracy` say.
        baseline: The arm that the others are compared with; by default the first.
        mode: Whether more of the metric is better, or less.
        select: Whether a run counts by its last validation or by its best.
        grid: Settings: an argument with its values, or a name of your own with overlays by label. Every combination is
            a setting; arms are compared within it, and come over it.
        failed_at: A run whose metric is no better than this has failed, and one that diverged (weights or validation
            loss that are not finite at its end) counts with this value. By default what always answering the most
            frequent class of the validation split would get, where the task is to classify texts.
        groups: Name to parts of the data, for tables of means over them: `{under-resourced: [sw, am, yo]}`.
        gradients_every: Record what the strategy does every so many optimizer steps (`GradientMonitor`); `None` for
            never.
        distances_every: Record how far weights moved every so many optimizer steps (`PretrainedDistance`); `None` for
            never.
        checkpoints: Whether runs keep checkpoints.
        needs: Files and folders that runs read, each with a sentence on how to make it.
        trial: What `--quick` runs instead.

    Raises:
        ConfigurationError: If there is no arm, no seed, or a name that is not there.
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
                        f"Parameter `{where}` should give names that are text, in quotes where YAML reads them "
                        f"otherwise. Found `{name!r}`."
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
        """The arm that others are compared with."""
        return self.baseline or next(iter(self.arms))

    @property
    def sign(self) -> int:
        """What makes more better: 1, or -1 where less of the metric is better."""
        return 1 if self.mode == "max" else -1

    @property
    def warning(self) -> str:
        """A sentence if the seeds are too few to show that a mean differs; else empty."""
        needed = pairs_needed(len(self.arms) - 1) if len(self.arms) > 1 else 1
        if len(self.all_seeds) >= needed:
            return ""
        return (
            f"With {len(self.arms)} arms it takes {needed} seeds to show that the mean of one differs from that of "
            f"`{self.reference}`, however much it does. There are {len(self.all_seeds)}."
        )

    def settings(self) -> Iterator[tuple[str, list[Overlay]]]:
        """Yield the name and the overlays of each setting; one without a name where there is no grid."""
        axes = [
            [(label, list(overlays)) for label, overlays in values.items()]
            if isinstance(values, Mapping)
            else [(f"{axis.rpartition('.')[2]}={value}", [{axis: value}]) for value in values]
            for axis, values in self.grid.items()
        ]
        for choice in product(*axes):
            yield ", ".join(label for label, _ in choice), [overlay for _, overlays in choice for overlay in overlays]

    def quickened(self) -> "Study":
        """Return the quick version."""
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
