"""Fused projections: one weight that computes query, key and value, cut into these parts.

Laid out along the output dimension, a fused projection is `groups` repetitions of its parts. One group of equal parts
is GPT-2's `c_attn` or ModernBERT's `Wqkv`; one group of unequal parts is Phi-3's `qkv_proj`; a group per head is
GPT-NeoX's and BLOOM's `query_key_value`; a group per key-value head with several queries is Falcon's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor, nn

from lightning_sparsegrad.components.parameters import NamedParameters, plain_class
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional.sharding import is_spread, shard_of

_PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class FusedProjection:
    """The layout of a fused projection along its output dimension.

    Args:
        sizes: Output features of each part within one group, e.g. `[64, 64, 64]`, positive.
        groups: Number of repetitions of the parts; `groups * sum(sizes)` is the size of the output dimension.
        names: Names of the parts, one per size.

    Raises:
        ConfigurationError: If a size or `groups` is not positive, or names and sizes differ in number.
    """

    sizes: Sequence[int]
    groups: int = 1
    names: Sequence[str] = field(default=_PARTS)

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ConfigurationError(f"Parameter `sizes` should hold positive numbers. Found `sizes = {self.sizes}`.")
        if self.groups < 1:
            raise ConfigurationError(f"Parameter `groups` should be positive. Found `groups = {self.groups}`.")
        if len(self.names) != len(self.sizes):
            raise ConfigurationError(
                f"Parameter `names` should name each of the {len(self.sizes)} parts. Found `names = {self.names}`."
            )


@dataclass(frozen=True)
class Part:
    """A parameter, or a slice of it: `length` entries from `start` in each of `groups` along `dim`.

    Args:
        parameter: Name of the parameter.
        dim: The dimension that is cut.
        groups: Number of equal groups along `dim`.
        start: First entry within each group.
        length: Number of entries within each group; `None` means the whole parameter.
    """

    parameter: str
    dim: int = 0
    groups: int = 1
    start: int = 0
    length: int | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """Return this part of a tensor of the parameter's shape, as a view."""
        if self.length is None:
            return tensor
        group_size = tensor.shape[self.dim] // self.groups  # a view cannot infer it for an empty tensor
        groups = tensor.view(*tensor.shape[: self.dim], self.groups, group_size, *tensor.shape[self.dim + 1 :])
        return groups.narrow(self.dim + 1, self.start, self.length)

    def held(self, tensor: Tensor) -> list[Tensor]:
        """Return the views of this part that this process holds: one, or one or more for a sharded tensor."""
        if not is_spread(tensor):
            return [self.of(tensor)]
        shard = shard_of(tensor)
        if shard.group is None or self.dim > 0 or self.length is None:
            return [self.of(shard.local)]
        rows, group = shard.local.shape[0], tensor.shape[0] // self.groups
        starts = [index * group + self.start - shard.first_row for index in range(self.groups)]
        spans = [(max(start, 0), min(start + self.length, rows)) for start in starts]
        return [shard.local[begin:end] for begin, end in spans if begin < end] or [shard.local[:0]]

    def numel(self, tensor: Tensor) -> int:
        """Return the number of entries of this part in a tensor of the parameter's shape, over all processes."""
        return (
            tensor.numel()
            if self.length is None
            else tensor.numel() // tensor.shape[self.dim] * self.length * self.groups
        )


def split_fused(parameters: NamedParameters, fused: Mapping[str, FusedProjection] | None) -> dict[str, dict[str, Part]]:
    """Find the fused projections of a model and cut them.

    Args:
        parameters: The model.
        fused: Glob on parameter names to layout, for projections that are not recognised; it overrides recognition.

    Returns:
        For each fused projection, by parameter name, its parts by name.

    Raises:
        ConfigurationError: If a pattern of `fused` matches nothing, or a layout does not fill its parameter.
    """
    layouts = _recognised(parameters)
    for pattern, layout in (fused or {}).items():
        layouts.update(dict.fromkeys(parameters.select("fused", pattern), layout))
    return {name: _cut(name, parameters, layouts[name]) for name in parameters if name in layouts}


def _cut(name: str, parameters: NamedParameters, layout: FusedProjection) -> dict[str, Part]:
    tensor = parameters[name]
    dim = output_dim(name, parameters)
    if layout.groups * sum(layout.sizes) != tensor.shape[dim]:
        raise ConfigurationError(
            f"Parameter `fused` should describe all {tensor.shape[dim]} outputs of `{name}`. "
            f"Found `sizes = {list(layout.sizes)}`, `groups = {layout.groups}`."
        )
    starts = [sum(layout.sizes[:i]) for i in range(len(layout.sizes))]
    return {
        part: Part(name, dim, layout.groups, start, size)
        for part, start, size in zip(layout.names, starts, layout.sizes, strict=True)
    }


def output_dim(name: str, parameters: NamedParameters) -> int:
    """Return the output dimension of a parameter: 1 for the (in, out) weights of `Conv1D`, else 0.

    Args:
        name: Name of the parameter.
        parameters: The model.
    """
    owner = parameters.model.get_submodule(parameters.owners[name])
    return 1 if plain_class(owner).__name__ == "Conv1D" and parameters[name].ndim == 2 else 0


# ---------------------------------------------------------------- recognition
# (name of the projection, class of the attention module that holds it) -> is it laid out head by head?
_KNOWN: tuple[tuple[str, str, bool], ...] = (
    ("query_key_value", "*", True),  # GPT-NeoX, BLOOM, Persimmon, Falcon
    ("in_proj", "DisentangledSelfAttention", True),  # DeBERTa
    ("qkv_proj", "MiniMaxLightningAttention", True),
    ("qkv_proj", "*", False),  # Phi-3, Phi-4
    ("c_attn", "GPTBigCodeAttention", True),
    ("c_attn", "*", False),  # GPT-2, GPT, ImageGPT
    ("Wqkv", "*", False),  # ModernBERT, MPT, DBRX
    ("qkv", "*", False),  # vision transformers
    ("qkv_linear", "*", False),  # LayoutLMv2
    ("att_proj", "*", False),  # Bark
)
_HEADS = ("num_heads", "num_attention_heads", "n_head", "n_heads")
_KEY_VALUE_HEADS = ("num_kv_heads", "num_key_value_heads", "kv_heads", "kv_n_heads")


def _recognised(parameters: NamedParameters) -> dict[str, FusedProjection]:
    layouts = {}
    for name, path in parameters.owners.items():
        owner = parameters.model.get_submodule(path)
        if isinstance(owner, nn.MultiheadAttention) and name.rpartition(".")[2] in {"in_proj_weight", "in_proj_bias"}:
            layouts[name] = FusedProjection((owner.embed_dim,) * 3)
            continue
        attention = parameters.model.get_submodule(path.rpartition(".")[0])
        projection = path.rpartition(".")[2]
        if projection in {leaf for leaf, _, _ in _KNOWN}:
            total = parameters[name].shape[output_dim(name, parameters)]
            layout = _layout(projection, attention, total, parameters.model)
            layouts.update({name: layout} if layout else {})
    return layouts


def _layout(projection: str, attention: nn.Module, total: int, model: nn.Module) -> FusedProjection | None:
    kind = plain_class(attention).__name__
    if (projection, kind) == ("qkv_proj", "CodeGenAttention"):  # cut for four devices, values before keys
        return FusedProjection((total // 12,) * 3, groups=4, names=("query", "value", "key"))
    by_head = next((heads for leaf, owner, heads in _KNOWN if leaf == projection and fnmatchcase(kind, owner)), None)
    if by_head is None:
        return None
    if getattr(attention, "is_cross_attention", False) and total % 2 == 0:  # GPT-2: the query is a separate weight
        return FusedProjection((total // 2,) * 2, names=_PARTS[1:])
    heads = _count(_HEADS, attention, model)
    key_value_heads = _count(_KEY_VALUE_HEADS, attention, model) or heads
    if heads is None or key_value_heads is None or total % (heads + 2 * key_value_heads) or heads % key_value_heads:
        return FusedProjection((total // 3,) * 3) if total % 3 == 0 and not by_head else None
    head = total // (heads + 2 * key_value_heads)
    if by_head:
        return FusedProjection((heads // key_value_heads * head, head, head), groups=key_value_heads)
    return FusedProjection((heads * head, key_value_heads * head, key_value_heads * head))


def _count(names: Sequence[str], attention: nn.Module, model: nn.Module) -> int | None:
    """Read a number of heads from the attention module, its configuration, or that of a module that contains it."""
    configs = [getattr(module, "config", None) for module in (attention, *_ancestors(attention, model))]
    for source in (attention, *configs):
        for name in names:
            value = getattr(source, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _ancestors(module: nn.Module, model: nn.Module) -> list[nn.Module]:
    path = next(name for name, candidate in model.named_modules() if candidate is module)
    steps = path.split(".")
    return [model.get_submodule(".".join(steps[:depth])) for depth in range(len(steps) - 1, -1, -1)]
