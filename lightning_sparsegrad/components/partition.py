"""The partition of a model into components: sets of tensors, or slices, that a strategy treats as a unit."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_sparsegrad.components.layers import find_layers
from lightning_sparsegrad.components.parameters import NamedParameters
from lightning_sparsegrad.components.projections import FusedProjection, Part, split_fused
from lightning_sparsegrad.errors import ConfigurationError, near_matches

ComponentKind = Literal["projection", "tensor", "module", "block", "global"]
ComponentSpec = ComponentKind | dict[str, str]


@dataclass(frozen=True)
class Component:
    """A named set of tensors or slices of tensors.

    Args:
        name: The name of the parameter for one tensor, followed by the name of the part for a slice; else the name of
            the module or the layer, or the one the user gave.
        parts: Its tensors and slices, in model order.
    """

    name: str
    parts: tuple[Part, ...]


def check_components(components: ComponentSpec) -> None:
    """Raise a `ConfigurationError` unless `components` is one of the names or a mapping of pattern to name."""
    kinds = get_args(ComponentKind)
    if isinstance(components, Mapping):
        if not components:
            raise ConfigurationError("Parameter `components` should hold a pattern. Found `components = {}`.")
    elif components not in kinds:
        raise ConfigurationError(
            f"Parameter `components` should be one of {', '.join(map(repr, kinds))}, or map patterns to names. "
            f"Found `components = {components!r}`.{near_matches(str(components), kinds)}"
        )


def without_split(names: frozenset[str], groups: Iterable[frozenset[str]]) -> frozenset[str]:
    """Return those of `names` that remain when each group has to be contained in them whole or not at all.

    Args:
        names: Names of parameters.
        groups: Sets of parameters, which may overlap; a set that is only partly in `names` is removed from them.
    """
    groups = list(groups)
    while split := [group for group in groups if group & names and not group <= names]:
        names = names.difference(*split)
    return names


def partition(
    parameters: NamedParameters, components: ComponentSpec, *, fused: Mapping[str, FusedProjection] | None = None
) -> list[Component]:
    """Cut all parameters of a model into components; each entry belongs to exactly one.

    Args:
        parameters: The model.
        components: `"tensor"`: each parameter by itself. `"projection"`: the same, with the query, key and value parts
            of fused projections apart. `"module"`: the parameters that one module holds directly, such as a weight and
            its bias. `"block"`: the embeddings, each block, the head. `"global"`: all together, as `all`. A mapping of
            glob to name: every parameter goes to the name of the first pattern that matches any of its names.
        fused: Layouts of fused projections that are not recognised, see `split_fused`.

    Returns:
        The components, in the order of their first parameter.

    Raises:
        ConfigurationError: If a pattern matches no remaining parameter, a mapping omits a parameter, `"block"` finds no
            layers, or `fused` is given where no projection is split.
    """
    check_components(components)
    if fused and components != "projection":
        raise ConfigurationError(
            f"Parameter `fused` should be given with `components = 'projection'` only. "
            f"Found `components = {components!r}`."
        )
    if components == "projection":
        cut = split_fused(parameters, fused)
        return [
            component
            for name in parameters
            for component in (
                [Component(f"{name}.{part}", (piece,)) for part, piece in cut[name].items()]
                if name in cut
                else [Component(name, (Part(name),))]
            )
        ]
    grouped: dict[str, list[Part]] = {}
    for name, group in _groups(parameters, components).items():
        grouped.setdefault(group, []).append(Part(name))
    return [Component(name, tuple(parts)) for name, parts in grouped.items()]


def _groups(parameters: NamedParameters, components: ComponentSpec) -> dict[str, str]:
    if isinstance(components, Mapping):
        return _by_pattern(parameters, components)
    if components == "block":
        layers = find_layers(parameters)
        return {name: layers.names[layers.top_depth(name)] for name in parameters}
    if components == "global":
        return dict.fromkeys(parameters, "all")
    if components == "module":
        return {name: name.rpartition(".")[0] or name for name in parameters}
    return {name: name for name in parameters}


def _by_pattern(parameters: NamedParameters, components: Mapping[str, str]) -> dict[str, str]:
    groups: dict[str, str] = {}
    for pattern, group in components.items():
        new = parameters.select("components", pattern) - groups.keys()
        if not new and pattern != "*":  # which takes the rest, even if it is empty
            raise ConfigurationError(
                f"Parameter `components` should hold patterns of which each is the first to match something. "
                f"Found `{pattern}`, whose matches all belong to earlier patterns."
            )
        groups.update(dict.fromkeys(new, group))
    left = [name for name in parameters if name not in groups]
    if left:
        raise ConfigurationError(
            f"Parameter `components` should match every parameter; a last pattern `*` takes the rest. "
            f"Found {len(left)} without a match, `{left[0]}` among them."
        )
    return {name: groups[name] for name in parameters}
