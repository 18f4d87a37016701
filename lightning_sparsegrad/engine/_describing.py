"""Ask a strategy, window by window, what it will do to a model: nothing is computed, and no weight is read."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from random import Random
from typing import Any

from torch import Tensor
from torch.random import fork_rng

from lightning_sparsegrad.components import Component, NamedParameters, Part, find_layers
from lightning_sparsegrad.engine._skipping import WorkSkipper
from lightning_sparsegrad.engine._steps import Steps
from lightning_sparsegrad.engine.description import Description, Memory, SettingRow, TensorRow
from lightning_sparsegrad.errors import ConfigurationError, require_integer
from lightning_sparsegrad.transforms.base import GradientTransform, Window, needless, stated
from lightning_sparsegrad.transforms.chain import Chain
from lightning_sparsegrad.transforms.freezes.layer_mask import LayerMask

_MOST = 1000  # windows that are asked, beside those between which something changes
_MOST_SETTINGS = 100
_CHECKED = 16  # windows between two that were asked, and around a change, in which it is checked to be the only one
_UNKNOWN = 1000  # steps that stand for a training of unknown length
_ALL = "all"


@dataclass(frozen=True)
class _Answer:
    """What a strategy does in a window: the tensors that train, and those whose gradients are computed."""

    trains: frozenset[str]
    computed: frozenset[str]
    calibrates: bool = False


class Describer:
    """Describes what a strategy does to a model.

    Args:
        transform: The strategy, bound.
        parameters: The parameters of the model.
        skipper: Knows whose gradients are not computed; `None` if all are.
        phases: Knows in which windows the strategy calibrates.
    """

    def __init__(
        self, transform: GradientTransform, parameters: NamedParameters, skipper: WorkSkipper | None, phases: Steps
    ) -> None:
        self._transform, self._parameters, self._skipper, self._phases = transform, parameters, skipper, phases
        self._trainable = frozenset(name for name in parameters if parameters[name].requires_grad)
        self._names, self._layers = layers_of(parameters, transform)

    def describe(self, make: Callable[..., Window], steps: int | None, steps_per_epoch: int | None) -> Description:
        """Return the description of a training.

        Args:
            make: Makes the window of a `step` and an `epoch`.
            steps: Optimizer steps of the training, `None` if that is not known.
            steps_per_epoch: Those of an epoch.

        Raises:
            ConfigurationError: If a number is not positive, or the strategy needs one that is not known.
        """
        is_whole, steps = steps is not None, _UNKNOWN if steps is None else steps
        require_integer("steps", steps, least=1)
        if steps_per_epoch is not None:
            require_integer("steps_per_epoch", steps_per_epoch, least=1)

        @cache
        def window(step: int) -> Window:
            return make(step, epoch=None if steps_per_epoch is None else step // steps_per_epoch)

        with _unchanged(self._transform, self._parameters):
            try:
                return self._describe(window, steps, is_whole=is_whole)
            except ConfigurationError as error:
                if steps_per_epoch is None and "`epoch` of the window" in str(error):
                    raise ConfigurationError(f"Parameter `steps_per_epoch` should be given. {error}") from error
                raise

    def _describe(self, window: Callable[[int], Window], steps: int, *, is_whole: bool) -> Description:
        answer = cache(lambda step: self._answer(window(step)))
        asked = _sample(steps, _MOST)
        answers = [answer(step) for step in asked]
        rows = tuple(self._row(name, steps, asked, answers, answer) for name in self._parameters)
        drops = any(each.trains != self._trainable for each in answers)
        return Description(
            strategy=repr(self._transform),
            steps=steps,
            is_whole=is_whole,
            asked=len(asked),
            calibrating=sum(each.calibrates for each in answers),
            layers=self._names,
            tensors=rows,
            settings=tuple(self._settings([window(asked[index]) for index in _sample(len(asked), _MOST_SETTINGS)])),
            obstacle=self._obstacle() if drops else None,
            memory=self._memory(rows, answers),
            acting_head=self._acting_head(),
        )

    def _acting_head(self) -> str | None:
        members = (member for member in self._transform.flattened() if isinstance(member, LayerMask))
        return next(filter(None, (member.acting_head for member in members)), None)

    def _answer(self, window: Window) -> _Answer:
        if self._phases.calibrating(window):
            return _Answer(frozenset(), self._trainable, calibrates=True)
        unread = needless(self._transform, window)
        members = [member for member in self._transform.flattened() if "dropped" in stated(type(member))]
        dropped = unread.union(*(window.dropped_by(member) for member in members))
        skipped = self._skipper.skippable(unread) if self._skipper and window.step else frozenset()
        return _Answer(self._trainable - dropped, self._trainable - skipped)

    def _obstacle(self) -> str | None:
        return "`skip_dropped` is off" if self._skipper is None else self._skipper.obstacle

    # ------------------------------------------------------------ tensors
    def _row(
        self,
        name: str,
        steps: int,
        asked: Sequence[int],
        answers: Sequence[_Answer],
        answer: Callable[[int], _Answer],
    ) -> TensorRow:
        trains = [name in each.trains for each in answers]
        stretch = _stretch(steps, asked, trains, lambda step: name in answer(step).trains)
        share = _share(trains, steps) if stretch is None else (stretch[1] - stretch[0] + 1) / steps
        pauses = stretch is None and any(trains)
        if pauses and len(asked) == steps:
            stretch = trains.index(True), steps - 1 - trains[::-1].index(True)
        first, last = stretch or (None, None)
        return TensorRow(
            name=name,
            layer=self._layers[name],
            entries=self._parameters[name].numel(),
            requires_grad=name in self._trainable,
            first_step=first,
            last_step=last,
            pauses=pauses,
            trained=share,
            computed=_share([name in each.computed for each in answers], steps),
        )

    def _memory(self, rows: Sequence[TensorRow], answers: Sequence[_Answer]) -> Memory:
        sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in self._parameters.tensors.items()}
        computed = [sum(sizes[name] for name in names) for names in {each.computed for each in answers[1:]}]
        whole = sum(sizes[name] for name in self._trainable)
        return Memory(
            gradients_first=whole,
            gradients_later=max(computed, default=whole),
            moments=2 * sum(sizes[row.name] for row in rows if row.trained),
            moments_of_all=2 * sum(sizes.values()),
            strategy=sum(tensor.numel() * tensor.element_size() for tensor in _tensors(self._transform.state_dict()))
            + sum(_held_by(member) for member in self._transform.flattened()),
        )

    # ------------------------------------------------------------ settings
    def _settings(self, windows: Sequence[Window]) -> Iterator[SettingRow]:
        for name, member in named_members(self._transform):
            components = {component.name: component for component in member.scaled_components}
            values: dict[tuple[str, str], list[float]] = {}
            for window in windows:
                numbers = type(member).settings(member, window)  # of 0.1, an attribute may have that name
                for setting, number in numbers.items():
                    each = number if isinstance(number, Mapping) else {_ALL: number}
                    for component, value in each.items():
                        values.setdefault((setting, component), []).append(float(value))
            for (setting, component), course in values.items():
                yield SettingRow(
                    member=name,
                    name=setting,
                    component=component,
                    **self._extent(member, component, components),
                    first=course[0],
                    last=course[-1],
                    low=min(course),
                    high=max(course),
                )

    def _extent(self, member: GradientTransform, name: str, components: Mapping[str, Component]) -> dict[str, Any]:
        """Return what a component is, in which layer if it is in one alone, and its number of entries."""
        unit = "component" if name in components else "tensor" if name in self._layers else "model"
        if unit == "model" and name != _ALL:
            raise ConfigurationError(
                f"`settings` of `{member!r}` should be by component or parameter. Found `{name}`, which is neither."
            )
        names = self._layers if unit == "model" else [name]
        parts = components[name].parts if name in components else tuple(Part(each) for each in names)
        layers = {self._layers[part.parameter] for part in parts}
        entries = sum(part.numel(self._parameters[part.parameter]) for part in parts)
        return {"unit": unit, "layer": None if unit == "model" or len(layers) > 1 else layers.pop(), "entries": entries}


def layers_of(parameters: NamedParameters, transform: GradientTransform) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the layers, bottom first, and that of each parameter.

    They are those that a strategy has, else those of the model, else the first modules of its tree.
    """
    own = (member.depths for member in transform.flattened() if isinstance(member, LayerMask))
    try:
        layers = next(own, None) or find_layers(parameters)
    except ConfigurationError:  # there are no blocks
        of_each = {name: name.partition(".")[0] for name in parameters}
        return tuple(dict.fromkeys(of_each.values())), of_each
    of_each = {name: layers.names[layers.top_depth(name)] for name in parameters}
    return tuple(name for name in layers.names if name in of_each.values()), of_each


def named_members(transform: GradientTransform, name: str = "") -> Iterator[tuple[str, GradientTransform]]:
    """Yield the strategies that a chain consists of, each with its name in it."""
    if not isinstance(transform, Chain):
        yield name, transform
        return
    for inner, member in transform.transforms.items():
        yield from named_members(member, f"{name}.{inner}" if name else inner)


@contextmanager
def _unchanged(transform: GradientTransform, parameters: NamedParameters) -> Iterator[None]:
    """Restore, of what `dropped` could change, the random state of torch and what a step would commit."""
    states = [
        (member, deepcopy(member.state_dict()))
        for member in transform.flattened()
        if member.learns and "dropped" in stated(type(member))
    ]
    devices = {tensor.device for tensor in parameters.tensors.values() if tensor.device.type == "cuda"}
    with fork_rng(devices=devices):
        try:
            yield
        finally:
            for member, state in states:
                member.load_state_dict(state)


def _sample(count: int, most: int) -> Sequence[int]:
    """Return all indices below a count; if that is too many, a pair of neighbours from each of equal strata.

    The first and the last are among them. Each other pair is at a random position of its stratum, always the same: what
    changes from window to window shows in a pair, and no period can hide between regular positions.
    """
    if count <= most:
        return range(count)
    strata, draw = most // 2, Random(0)  # noqa: S311  # not for secrets
    ends = [count * index // strata for index in range(strata + 1)]
    starts = [draw.randrange(low, high - 1) for low, high in pairwise(ends)]
    starts[0], starts[-1] = 0, count - 2
    return [index for start in starts for index in (start, start + 1)]


def _share(holds: Sequence[bool], steps: int) -> float:
    """Return the share of windows in which something holds, from those that were asked; the first stands for itself."""
    first, *others = holds
    return (first + sum(others) * (steps - 1) / max(1, len(others))) / steps


def _stretch(
    steps: int, asked: Sequence[int], trains: Sequence[bool], holds: Callable[[int], bool]
) -> tuple[int, int] | None:
    """Return the first and the last step of the one stretch in which a tensor trains.

    `None` if there is none or more than one, or if a sample of the windows does not tell.
    """
    indices = [index for index, does in enumerate(trains) if does]
    if not indices or len(indices) != indices[-1] - indices[0] + 1:
        return None
    first, last = indices[0], indices[-1]
    if len(asked) == steps:
        return first, last
    begins, ends = first == 0, last == len(asked) - 1
    start = 0 if begins else _only_change(asked[first - 1], asked[first], steps, holds)
    stop = steps if ends else _only_change(asked[last], asked[last + 1], steps, holds)
    return None if start is None or stop is None else (start, stop - 1)


def _only_change(low: int, high: int, steps: int, holds: Callable[[int], bool]) -> int | None:
    """Return the step from which on something is as at `high`, not as at `low`; `None` if it changes repeatedly."""
    before, after = low, high
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if holds(middle) == holds(low) else (before, middle)
    around = range(max(0, after - _CHECKED // 2), min(steps, after + _CHECKED // 2))
    checked = {*around, *(low + (high - low) * index // _CHECKED for index in range(_CHECKED))}
    return after if all((holds(step) == holds(high)) == (step >= after) for step in checked) else None


def _held_by(member: GradientTransform) -> int:
    bytes_held = member.held_bytes
    return bytes_held if isinstance(bytes_held, int) else 0  # of 0.1, an attribute may have that name


def _tensors(state: Any) -> Iterator[Tensor]:
    """Yield the tensors of a state."""
    if isinstance(state, Tensor):
        yield state
    inner: Iterable[Any] = state.values() if isinstance(state, Mapping) else state
    if isinstance(state, Mapping | list | tuple):
        for each in inner:
            yield from _tensors(each)
