"""The depth of every parameter of a transformer: embeddings, block 0 to L-1, head."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_sparsegrad.components._patterns import as_patterns
from lightning_sparsegrad.components._tree import depths_in_tree
from lightning_sparsegrad.components.parameters import NamedParameters


@dataclass(frozen=True)
class Layers:
    """The depth of every parameter of a model.

    Args:
        names: Names by depth, bottom first: `("embeddings", "block 0", ..., "head")`.
        depths: For each parameter, the depths of all its roles; a tied weight may be embeddings and head at once.
        has_head: Whether the last depth is a head, which trains even if every layer is dropped.
        training: The depths in which something trains, bottom first; a tied weight is at those of all its roles.
    """

    names: tuple[str, ...]
    depths: dict[str, frozenset[int]]
    has_head: bool
    training: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of layers that can be dropped: embeddings and blocks, without the head."""
        return len(self.names) - self.has_head

    @property
    def head(self) -> frozenset[str]:
        """The parameters of the head; not those with another role as well, such as a tied embedding."""
        return frozenset(name for name, depths in self.depths.items() if self.has_head and depths == {self.count})

    def top_depth(self, name: str) -> int:
        """Return the depth of the topmost role of a parameter."""
        return max(self.depths[name])

    def height(self, name: str) -> float:
        """Return the topmost depth of a parameter as a share of the model: 0 at the bottom, 1 at the top."""
        return self.top_depth(name) / (len(self.names) - 1) if len(self.names) > 1 else 1.0

    def within(self, dropped: frozenset[int]) -> frozenset[str]:
        """Return the parameters whose roles all lie at the given depths: a tied weight is dropped only if all are."""
        return frozenset(name for name, depths in self.depths.items() if depths <= dropped)


def find_layers(
    parameters: NamedParameters, *, layers: Sequence[str] | None = None, head: str | Sequence[str] | None = None
) -> Layers:
    """Find the depth of every parameter.

    Args:
        parameters: The model.
        layers: One glob per layer, bottom first, for a model whose blocks cannot be found; parameters that none of them
            matches are the head.
        head: Globs of the head, if it is not detected correctly; the rest of the detected head joins the last layer.

    Raises:
        ConfigurationError: If the model has no stack of blocks and `layers` is not given, or a pattern matches nothing.
    """
    if layers is not None:
        depth_of, names = _from_patterns(parameters, as_patterns(layers))
    else:
        depth_of, names = depths_in_tree(parameters.model)
    top = len(names)
    if head is not None:
        chosen = {role for pattern in as_patterns(head) for role in parameters.matched(pattern, parameter="head")}
        depth_of = {role: top if role in chosen else min(depth, top - 1) for role, depth in depth_of.items()}
    has_head = top in depth_of.values()
    depths = {name: frozenset(depth_of[role] for role in roles) for name, roles in parameters.roles.items()}
    training = sorted({depth for name in parameters if parameters[name].requires_grad for depth in depths[name]})
    return Layers((*names, "head") if has_head else names, depths, has_head, tuple(training))


def _from_patterns(parameters: NamedParameters, layers: list[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    depth_of = dict.fromkeys(parameters.all_names, len(layers))
    for depth, pattern in reversed(list(enumerate(layers))):
        depth_of.update(dict.fromkeys(parameters.matched(pattern, parameter="layers"), depth))
    return depth_of, tuple(f"block {depth}" for depth in range(len(layers)))
