"""Strategies applied one after the other."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.base import (
    Gradients,
    GradientTransform,
    Phase,
    Window,
    needless,
    refuse_equal_draws,
    run_,
    runs_on_shards,
)


class Chain(GradientTransform):
    r"""Apply several transforms, in the order in which they are listed.

    .. math:: \tilde g = (f_n \circ \dots \circ f_1)(g)

    The order matters: a mask before a clip lowers the norms that the clip sees; a mask after a clip drops entries of
    the clipped gradient.

    Args:
        transforms: The transforms, or a mapping of names to them. Names give every argument an address on the command
            line: `--model.gradient_transform.transforms.mask.rate=0.6`.

    Raises:
        ConfigurationError: If there is no transform, a member is not a transform, two clips bound the same quantity, a
            member that looks for large norms comes behind a clip, or two masks would draw the same bits.

    Example:
        >>> from lightning_sparsegrad import ComponentNormClip, GradDrop
        >>> Chain({"mask": GradDrop(rate=0.2), "clip": ComponentNormClip(max_norm=0.05)})
        Chain(mask=GradDrop(rate=0.2), clip=ComponentNormClip(max_norm=0.05))
    """

    def __init__(self, transforms: dict[str, GradientTransform] | list[GradientTransform]) -> None:
        if not isinstance(transforms, Mapping | Sequence):
            raise ConfigurationError(
                f"Parameter `transforms` should be a list, or map names to transforms. Found `{transforms!r}`."
            )
        self.transforms = dict(transforms) if isinstance(transforms, Mapping) else _named(transforms)
        if not self.transforms:
            raise ConfigurationError(f"Parameter `transforms` should hold a transform. Found `{transforms}`.")
        for name, transform in self.transforms.items():
            if not isinstance(transform, GradientTransform):
                raise ConfigurationError(
                    f"Parameter `transforms` should hold gradient transforms. Found `{name} = {transform!r}`."
                )
        self._refuse_fighting_clips()
        self._refuse_norms_behind_clips()
        self._refuse_gradients_behind_updates()
        refuse_equal_draws(self.seeds)
        self.bounds = frozenset().union(*(transform.bounds for transform in self.transforms.values()))

    @property
    def phases(self) -> frozenset[Phase]:  # type: ignore[override]  # those of its members
        """The phases in which a member acts."""
        return frozenset().union(*(transform.phases for transform in self.transforms.values()))

    @property
    def on_shards(self) -> bool:  # type: ignore[override]  # as its members say
        """Whether all members handle sharded gradients."""
        return all(runs_on_shards(transform) for transform in self.transforms.values())

    def flattened(self) -> Iterator[GradientTransform]:
        return chain.from_iterable(transform.flattened() for transform in self.transforms.values())

    @property
    def schedules(self) -> Sequence[Schedule]:
        return tuple(chain.from_iterable(transform.schedules for transform in self.transforms.values()))

    @property
    def needs_total_steps(self) -> bool:
        return any(transform.needs_total_steps for transform in self.transforms.values())

    @property
    def seeds(self) -> Sequence[tuple[str, int | None]]:
        return tuple(chain.from_iterable(transform.seeds for transform in self.transforms.values()))

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        for transform in self.transforms.values():
            transform.bind(parameters, total_steps=total_steps)

    def skippable(self, window: Window, later: frozenset[str] = frozenset()) -> frozenset[str]:
        for transform in reversed(self.transforms.values()):
            later = needless(transform, window, later)
        return later

    def apply_(self, gradients: Gradients, window: Window) -> None:
        for transform in self.transforms.values():
            run_(transform, gradients, window)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """The statistics of all transforms; a key that several report is prefixed with the transform's name."""
        reports = {name: transform.statistics for name, transform in self.transforms.items()}
        counts = Counter(chain.from_iterable(reports.values()))
        return {
            key if counts[key] == 1 else f"{name}/{key}": value
            for name, report in reports.items()
            for key, value in report.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {name: transform.state_dict() for name, transform in self.transforms.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, transform in self.transforms.items():
            if name in state:  # else it is new in the chain, and starts fresh
                transform.load_state_dict(state[name])

    def _refuse_fighting_clips(self) -> None:
        clips: dict[str, str] = {}
        for name, transform in self.transforms.items():
            for kind in transform.bounds:
                if kind in clips:
                    raise ConfigurationError(
                        f"Parameter `transforms` should hold at most one clip of gradient {kind}s: the second would "
                        f"change what the first has bounded. Found `{clips[kind]}` and `{name}`."
                    )
                clips[kind] = name

    def _refuse_norms_behind_clips(self) -> None:
        clip = None
        for member in self.flattened():
            if clip is not None and member.before_clips:
                raise ConfigurationError(
                    f"Parameter `transforms` should hold what looks for large norms before a clip, behind which there "
                    f"are none. Found `{member!r}` behind `{clip!r}`."
                )
            clip = member if member.bounds else clip

    def _refuse_gradients_behind_updates(self) -> None:
        update = None
        for member in self.flattened():
            if update is not None and "gradient" in member.phases:
                raise ConfigurationError(
                    f"Parameter `transforms` should hold what acts on gradients before what acts on updates, the order "
                    f"in which they run. Found `{member!r}` behind `{update!r}`."
                )
            update = member if member.phases == {"update"} else update

    def __repr__(self) -> str:
        return f"Chain({', '.join(f'{name}={transform!r}' for name, transform in self.transforms.items())})"


def _named(transforms: Sequence[GradientTransform]) -> dict[str, GradientTransform]:
    """Name the transforms of a list by class, numbered where a class comes twice."""
    kinds = [type(transform).__name__ for transform in transforms]
    names = [kind if kinds.count(kind) == 1 else f"{kind}_{i}" for i, kind in enumerate(kinds)]
    return dict(zip(names, transforms, strict=True))
