"""Random masks: a hash of names and indices decides which units are dropped, so that nothing has to be stored."""

from collections.abc import Callable, Mapping, Sequence

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional import derive_keys, hash_index, keep_threshold
from lightning_sparsegrad.schedules import Schedule, as_rate
from lightning_sparsegrad.transforms.base import (
    GradientTransform,
    ResampleEvery,
    Window,
    check_every,
    check_seed,
    resample_index,
)

_ATTEMPTS = 10_000


class Mask(GradientTransform):
    """Base class of random masks: each unit is dropped independently with probability `rate`.

    Args:
        rate: Expected fraction of dropped units, in [0, 1]; or a schedule.
        resample_every: Number of optimizer steps for which a mask is kept; `"epoch"`, or `None` for one mask
            throughout.
        seed: Seed of the masks; `None` means the seed of the run.
    """

    def __init__(self, rate: float | Schedule, *, resample_every: ResampleEvery = 1, seed: int | None = None) -> None:
        self.rate = as_rate("rate", rate)
        check_every("resample_every", resample_every)
        check_seed(seed)
        self.resample_every, self.seed = resample_every, seed

    @property
    def schedules(self) -> Sequence[Schedule]:
        return (self.rate,)

    @property
    def seeds(self) -> Sequence[tuple[str, int | None]]:
        return ((type(self).__name__, self.seed),)

    def key(self, window: Window) -> tuple[str | int, ...]:
        """Return the key of the draws of a window, see `draw_key`."""
        return draw_key(type(self).__name__, self.seed, self.resample_every, window)


def draw_key(kind: str, seed: int | None, resample_every: ResampleEvery, window: Window) -> tuple[str | int, ...]:
    """Return the key of a strategy's draws in a window: its class, its seed or the run's, and the resample index."""
    return kind, window.seed if seed is None else seed, resample_index(resample_every, window)


def draw_dropped(
    rates: Mapping[str, float],
    key: tuple[str | int, ...],
    trains: Callable[[frozenset[str]], bool],
    *,
    kept: str | None = None,
) -> frozenset[str]:
    """Drop each unit with its rate; draw again if nothing would train, unless all rates are 0 or 1.

    Args:
        rates: Unit name to drop rate, in [0, 1].
        key: Key of the draw, without the name of the unit, see `Mask.key`.
        trains: Whether anything trains when the given units are dropped.
        kept: The unit that is kept if the rates leave almost no chance that anything trains.

    Returns:
        The names of the dropped units.

    Raises:
        ConfigurationError: If the rates leave almost no chance that anything trains, and `kept` is not given.
    """
    thresholds = {name: keep_threshold(rate) for name, rate in rates.items()}
    for attempt in range(_ATTEMPTS):
        drawn = zip(thresholds.items(), derive_keys((*key, attempt), list(thresholds)), strict=True)
        dropped = frozenset(name for (name, threshold), own in drawn if hash_index(own, 0) < threshold)
        if trains(dropped) or all(rate in {0, 1} for rate in rates.values()):  # then every draw is the same
            return dropped
    if kept is not None:
        return frozenset(rates) - {kept}
    raise ConfigurationError(
        f"Parameter `rate` of `{key[0]}` should leave something to train. "
        f"Found `rate = {max(rates.values())}` on all of {len(rates)} units."
    )
