"""The structure of a model, written by hand: what the library has to find in its module tree."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import prod

Pieces = list[tuple[str, Sequence[int]]]  # a parameter's name, and the entries of it


@dataclass(frozen=True)
class Layout:
    """The structure of a model.

    Args:
        shapes: Parameter name to shape.
        depths: Parameter name to the depths of all its roles: 0 for the embeddings, then the blocks, then the head.
        head: Depth of the head.
        fused: Parameter name to names and numbers of rows of the parts it holds.
        columns: Those of `fused` that are cut along their columns.
        roles: Tied parameter to all its names, each with its depth.
        frozen: What its user has frozen.
        embedded: Whether the lowest layer is called "embeddings", and not "block 0".
        weights: Parameter name to its entries as they stand, in row-major order.
    """

    shapes: Mapping[str, tuple[int, ...]]
    depths: Mapping[str, frozenset[int]]
    head: int
    fused: Mapping[str, Sequence[tuple[str, int]]]
    columns: Collection[str] = ()
    roles: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    frozen: Collection[str] = ()
    embedded: bool = True
    weights: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """The names of the layers, bottom first."""
        blocks = [f"block {i}" for i in range(self.head - self.embedded)]
        return ["embeddings", *blocks] if self.embedded else blocks

    def names(self, parameter: str) -> Mapping[str, int]:
        """Return all names of a parameter, each with its depth."""
        return self.roles.get(parameter, {parameter: max(self.depths[parameter])})

    def matches(self, parameter: str, pattern: str) -> bool:
        """Say whether a glob matches any name of a parameter."""
        return any(fnmatchcase(name, pattern) for name in self.names(parameter))

    def relaid(self, layers: Sequence[str] | None, head: Sequence[str] | None) -> "Layout":
        """Return the layout in which globs say what each layer is, and what the head is."""
        top = self.head if layers is None else len(layers)
        depths = {name: dict(self.names(name)) for name in self.shapes}
        for names in depths.values():
            for name in names:
                if layers is not None:
                    names[name] = next((i for i, glob in enumerate(layers) if fnmatchcase(name, glob)), top)
                if head is not None:
                    is_head = any(fnmatchcase(name, glob) for glob in head)
                    names[name] = top if is_head else min(names[name], top - 1)
        return replace(
            self,
            depths={name: frozenset(names.values()) for name, names in depths.items()},
            head=top,
            roles=depths,
            embedded=self.embedded and layers is None,
        )

    def units(self, kind: str | Mapping[str, str]) -> dict[str, Pieces]:
        """Return unit name to the pieces it consists of; a mapping takes globs to the names of units."""
        units: dict[str, Pieces] = {}
        for name, shape in self.shapes.items():
            if kind == "projection" and name in self.fused:
                units.update({f"{name}.{part}": [(name, indices)] for part, indices in self._parts(name)})
                continue
            if isinstance(kind, Mapping):
                group = next(unit for glob, unit in kind.items() if self.matches(name, glob))
                units.setdefault(group, []).append((name, range(prod(shape))))
                continue
            top = max(self.depths[name])
            block = "head" if top == self.head else self.layers[top]
            group = {
                "projection": name,
                "tensor": name,
                "module": name.rpartition(".")[0] or name,
                "block": block,
                "all": "all",
            }[kind]
            units.setdefault(group, []).append((name, range(prod(shape))))
        return units

    def _parts(self, name: str) -> list[tuple[str, list[int]]]:
        shape, start, parts = self.shapes[name], 0, []
        dim = 1 if name in self.columns else 0
        inner = prod(shape[dim + 1 :])
        for part, length in self.fused[name]:
            positions = range(start, start + length)
            parts.append((part, [i for i in range(prod(shape)) if i // inner % shape[dim] in positions]))
            start += length
        return parts
