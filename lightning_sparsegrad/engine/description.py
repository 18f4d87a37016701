"""What a strategy will do to a model, tensor by tensor and component by component, before it trains."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from lightning_sparsegrad.engine._tables import aligned, counted, in_bytes, runs

_FEW = 3  # values that a cell lists


@dataclass(frozen=True)
class TensorRow:
    """One parameter tensor.

    Args:
        name: Its name in the model.
        layer: The layer it is in: `embeddings`, `block 3`, `head`; where a model has none, the first of its modules.
        entries: Number of entries, of all processes together.
        requires_grad: Whether the model lets it train.
        first_step: The step of the first window in which it trains; `None` if it never does, or if it pauses and not
            all windows were asked.
        last_step: The step of the last one, or `None` likewise.
        pauses: Whether there are windows between these two in which it does not train.
        trained: The share of the windows in which it trains: is neither frozen by the model nor dropped whole.
        computed: The share of the windows in which its gradient is computed.
    """

    name: str
    layer: str
    entries: int
    requires_grad: bool
    first_step: int | None
    last_step: int | None
    pauses: bool
    trained: float
    computed: float


@dataclass(frozen=True)
class SettingRow:
    """A rate, a threshold or another number of a strategy, for one component.

    Args:
        member: The name of the strategy in its chain, empty without one.
        name: The argument: `rate`, `max_norm`.
        component: What it holds for; `all` for everything.
        unit: Whether that is a component of the strategy, a tensor or the whole model.
        layer: The layer of the component; `None` if it is in several.
        entries: Number of entries of the component.
        first: The value in the first window.
        last: The value in the last one.
        low: The lowest value.
        high: The highest one.
    """

    member: str
    name: str
    component: str
    unit: Literal["component", "tensor", "model"]
    layer: str | None
    entries: int
    first: float
    last: float
    low: float
    high: float

    @property
    def column(self) -> str:
        """The name of the setting beside those of other strategies."""
        return f"{self.member}.{self.name}" if self.member else self.name

    @property
    def value(self) -> str:
        """The value in words: `0.2`, or `1 -> 0` where it changes."""
        if self.low == self.high:
            return f"{self.first:.4g}"
        inside = {self.low, self.high} == {self.first, self.last}
        return f"{self.first:.4g} -> {self.last:.4g}" + ("" if inside else f", {self.low:.4g} to {self.high:.4g}")


@dataclass(frozen=True)
class Memory:
    """What a training allocates beside the weights, in bytes, of one copy of the model, which may be sharded.

    Args:
        gradients_first: The gradients of the first window, which is computed whole.
        gradients_later: Those of the largest window after it that was asked.
        moments: Two numbers for each entry that ever trains, as Adam keeps.
        moments_of_all: The same if every tensor of the model trained.
        strategy: What the strategy holds once it is bound.
    """

    gradients_first: int
    gradients_later: int
    moments: int
    moments_of_all: int
    strategy: int


@dataclass(frozen=True)
class Description:
    """What a strategy will do to a model; `str()` is a table by layer, `as_dict()` has every tensor and component.

    Nothing was computed for it and no weight was read. The strategy was asked what it does in the windows of the
    training: in all of them, or in 1,000 of a longer one and in those between which it changes. These are pairs of
    neighbours at random positions, so that shares are estimates; steps are exact.

    Args:
        strategy: The strategy.
        steps: Optimizer steps of the training, or of its beginning.
        is_whole: Whether these are all: the length of the training is known.
        asked: In how many of its windows the strategy was asked what it drops: shares are of these.
        calibrating: In how many of them it calibrates, so that nothing steps.
        layers: The layers, bottom first.
        tensors: The tensors, in the order of the model.
        settings: The numbers of the strategy, in its order.
        obstacle: Why gradients that are dropped are computed all the same; `None` if nothing stands in the way.
        memory: What is allocated.
        acting_head: The layer that takes the role of the head where nothing trains behind it; `None` if no layer does.
    """

    strategy: str
    steps: int
    is_whole: bool
    asked: int
    calibrating: int
    layers: tuple[str, ...]
    tensors: tuple[TensorRow, ...]
    settings: tuple[SettingRow, ...]
    obstacle: str | None
    memory: Memory
    acting_head: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON: infinity, which bounds nothing, and NaN are `None`."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    def __str__(self) -> str:
        return "\n".join([*self._heading(), "", *self._layers(), *self._across_layers(), "", *self._totals()])

    def _heading(self) -> list[str]:
        total = sum(row.entries for row in self.tensors)
        count = f"{counted(total, 'parameter')} in {counted(len(self.tensors), 'tensor')}"
        trained = sum(row.entries for row in self.tensors if row.trained)
        most = "all train" if trained == total else f"{trained:,} train ({_percent(trained, total)})"
        if any(row.name == "density" and row.low < 1 for row in self.settings):
            most += ", in part"
        steps = counted(self.steps, "step")
        if not self.is_whole:
            steps = f"the first {steps} of a training of unknown length"
        elif self._about:
            steps += f", of which {self.asked:,} were asked"
        lines = [self.strategy, f"{steps}; {count}, {most}"]
        if self.acting_head:
            lines.append(f"nothing trains behind {self.acting_head}, which takes the role of the head")
        if self.calibrating:
            lines.append(f"calibrates in {self._of_windows(self.calibrating)}, in which nothing steps")
        return lines

    @property
    def _about(self) -> str:
        """The word before a number that a sample of the windows estimates."""
        return "about " if self.asked < self.steps else ""

    def _of_windows(self, count: int) -> str:
        return "every window" if count == self.asked else f"{self._about}{count / self.asked:.1%} of the windows"

    def _layers(self) -> list[str]:
        """Return the table of layers, in which equal ones that follow one another are one row."""
        by_layer: dict[str, list[TensorRow]] = {layer: [] for layer in self.layers}
        for row in self.tensors:
            by_layer[row.layer].append(row)
        columns = list(dict.fromkeys(row.column for row in self.settings if row.layer is not None))
        cells = {
            layer: [
                f"{_entries(rows):,}",
                self._training(rows),
                *(self._setting(layer, rows, name) for name in columns),
            ]
            for layer, rows in by_layer.items()
        }
        lines = [[label, *cells[layer]] for label, layer in runs(cells)]
        return aligned([["layer", "parameters", "trains", *columns], *lines], right={1})

    def _training(self, rows: Sequence[TensorRow]) -> str:
        """Return when the tensors of a layer train, in words."""
        entries: dict[str, int] = {}
        for row in rows:
            text = self._when(row)
            entries[text] = entries.get(text, 0) + row.entries
        if len(entries) == 1:
            return next(iter(entries))
        never = sum(size for text, size in entries.items() if text.startswith("never"))
        others = [text for text in entries if not text.startswith("never")]
        if not others:
            return "never"
        if len(others) == 1 and never:
            return f"{_percent(entries[others[0]], _entries(rows))} {others[0]}, rest never"
        mean = sum(row.trained * row.entries for row in rows) / max(1, _entries(rows))
        return f"{self._about}{_of_steps(mean)}, in the mean"

    def _when(self, row: TensorRow) -> str:
        if not row.requires_grad:
            return "never: requires_grad=False"
        if not row.trained:
            return "never"
        if row.pauses or row.first_step is None or row.last_step is None:
            return f"{self._about}{_of_steps(row.trained)}"
        if row.first_step == row.last_step and self.steps > 1:
            return f"step {row.first_step:,}"
        if row.last_step < self.steps - 1:
            return f"steps {row.first_step:,} to {row.last_step:,}"
        return f"from step {row.first_step:,}" if row.first_step else "all steps"

    def _setting(self, layer: str, rows: Sequence[TensorRow], column: str) -> str:
        """Return the values of a setting in a layer, in words."""
        settings = [row for row in self.settings if row.column == column and row.layer == layer]
        values = list(dict.fromkeys(row.value for row in settings))
        if not settings:
            return "-"
        if len(values) > _FEW:
            values = [f"{min(row.low for row in settings):.4g} to {max(row.high for row in settings):.4g}"]
        covered = sum(row.entries for row in settings)
        share = "" if covered >= _entries(rows) else f" on {covered / _entries(rows):.0%}"
        components = sum(row.unit == "component" for row in settings)
        return " or ".join(values) + share + (f", each of {components}" if components > 1 else "")

    def _across_layers(self) -> list[str]:
        """Return a line for each component that is in several layers."""
        rows = [row for row in self.settings if row.layer is None]
        lines = aligned([[row.column, row.component, f"{row.entries:,}", row.value] for row in rows], right={2})
        return ["", *lines] if lines else []

    def _totals(self) -> list[str]:
        memory, total = self.memory, sum(row.entries for row in self.tensors if row.requires_grad)
        computed = sum(row.computed * row.entries for row in self.tensors)
        share = f"{self._about}{1 - computed / max(1, total):.1%}"
        skipped = f"{share} of all gradients are not computed; the first window is whole"
        if self.obstacle:
            skipped = f"none, {self.obstacle}"
        elif computed == total:
            skipped = "none"
        later = (
            ""
            if memory.gradients_later == memory.gradients_first
            else f" in the first window, {self._about or 'at most '}{in_bytes(memory.gradients_later)} after it"
        )
        moments = f"{in_bytes(memory.moments)} in two moments, as Adam keeps"
        if memory.moments < memory.moments_of_all:
            moments += f", of {in_bytes(memory.moments_of_all)} if all trained"
        lines = [["skipped", skipped], ["gradients", in_bytes(memory.gradients_first) + later], ["optimizer", moments]]
        if memory.strategy:
            lines.append(["strategy", f"{in_bytes(memory.strategy)} of its own"])
        return aligned(lines)


def _entries(rows: Sequence[TensorRow]) -> int:
    return sum(row.entries for row in rows)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.1f}%" if share >= 1 else f"{share:.2g}%"


def _of_steps(share: float) -> str:
    percent = f"{share:.0%}" if 0.01 <= share <= 0.99 else f"{100 * share:.3g}%"
    return f"{percent} of steps"


def _finite(value: Any) -> Any:
    """Return plain values in which every number is finite."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
