"""How deep every parameter of a transformer lies: embeddings, block 0 to L-1, head. Read off the module tree.

A stack is an outermost list of composite modules (`nn.ModuleList`, `nn.Sequential`): the blocks. What is not in a block
is told apart by where it stands: embeddings by their type and name, final norms by the stack they follow, and what lies
outside the part of the tree that holds embeddings and blocks, or behind the last block, is the head.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile

from torch import nn

from lightning_sparsegrad.components.parameters import NamedParameters, plain_name
from lightning_sparsegrad.components.patterns import as_patterns
from lightning_sparsegrad.errors import ConfigurationError

EMBEDDINGS, HEAD = "embeddings", "head"
# (class of the module that holds it, its name there) of what runs behind the blocks, though registered before them
_LATE = (("OPTDecoder", "project_out"), ("*EncoderStableLayerNorm", "layer_norm"))


@dataclass(frozen=True)
class Layers:
    """The depth of every parameter of a model.

    Args:
        names: Names by depth, bottom first: `("embeddings", "block 0", ..., "head")`.
        depths: For each parameter, the depths of all its roles; a tied weight may be embeddings and head at once.
        has_head: Whether the last depth is a head, which trains also when every layer is dropped.
    """

    names: tuple[str, ...]
    depths: dict[str, frozenset[int]]
    has_head: bool

    @property
    def count(self) -> int:
        """Number of layers that can be dropped: embeddings and blocks, without the head."""
        return len(self.names) - self.has_head

    def top_depth(self, name: str) -> int:
        """Return the depth of the topmost role of a parameter."""
        return max(self.depths[name])

    def height(self, name: str) -> float:
        """Return the topmost depth of a parameter as a share of the model: 0 at the bottom, 1 at the top."""
        return self.top_depth(name) / (len(self.names) - 1) if len(self.names) > 1 else 1.0

    def within(self, dropped: frozenset[int]) -> frozenset[str]:
        """Return the parameters all of whose roles lie at the given depths: a tied weight is dropped by all or none."""
        return frozenset(name for name, depths in self.depths.items() if depths <= dropped)


def find_layers(
    parameters: NamedParameters, *, layers: Sequence[str] | None = None, head: str | Sequence[str] | None = None
) -> Layers:
    """Find the depth of every parameter.

    Args:
        parameters: The model.
        layers: One glob per layer, bottom first, for a model whose blocks cannot be found; what none of them matches
            is the head.
        head: Globs of the head, if it is not what is found; what was found as head besides belongs to the last layer.

    Raises:
        ConfigurationError: If the model has no stack of blocks and `layers` is not given, or a pattern matches nothing.
    """
    if layers is not None:
        depth_of, names = _from_patterns(parameters, as_patterns(layers))
    else:
        depth_of, names = _from_tree(parameters)
    top = len(names)
    if head is not None:
        chosen = {role for pattern in as_patterns(head) for role in parameters.matched(pattern, parameter="head")}
        depth_of = {role: top if role in chosen else min(depth, top - 1) for role, depth in depth_of.items()}
    has_head = top in depth_of.values()
    depths = {name: frozenset(depth_of[role] for role in roles) for name, roles in parameters.roles.items()}
    return Layers((*names, HEAD) if has_head else names, depths, has_head)


def _from_patterns(parameters: NamedParameters, layers: list[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    depth_of = dict.fromkeys(parameters.all_names, len(layers))
    for depth, pattern in reversed(list(enumerate(layers))):
        depth_of.update(dict.fromkeys(parameters.matched(pattern, parameter="layers"), depth))
    return depth_of, tuple(f"block {depth}" for depth in range(len(layers)))


def _from_tree(parameters: NamedParameters) -> tuple[dict[str, int], tuple[str, ...]]:
    model = parameters.model
    blocks = [block for stack in _stacks(model) for block in stack]
    if not blocks:
        raise ConfigurationError(
            f"Parameter `layers` should be given for a model whose blocks cannot be found: one pattern per layer, "
            f"bottom first. Found no list of blocks in `{type(model).__name__}`."
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    backbone, stack = _backbone(modules, blocks), _parent(_parent(blocks[-1]))
    depth_of: dict[str, int] = {}
    top, reached = len(blocks) + 1, 0
    for wrapped, parameter in model.named_parameters(remove_duplicate=False):
        inside = next((i for i, block in enumerate(blocks) if wrapped.startswith(f"{block}.")), None)
        if inside is not None:
            reached = inside + 1
            depth = reached
        else:
            scalar = parameter.numel() == 1  # a temperature, as CLIP's
            depth = top if scalar else _outside(wrapped, modules, backbone, stack, reached, top)
        depth_of[plain_name(wrapped)] = depth
    names = (EMBEDDINGS, *(f"block {i}" for i in range(len(blocks))))
    if 0 not in depth_of.values():  # a model that is fed embeddings: its blocks start at the bottom
        return {name: depth - 1 for name, depth in depth_of.items()}, names[1:]
    return depth_of, names


def _outside(name: str, modules: dict[str, nn.Module], backbone: str, stack: str, reached: int, top: int) -> int:
    """Return the depth of a parameter outside all blocks, given the last block passed in module order.

    Args:
        name: Name of the parameter, wrappers included.
        modules: The modules of the model.
        backbone: Prefix of all but the head.
        stack: Path of the module that holds the last stack.
        reached: How many blocks were passed.
        top: Depth of the head.
    """
    if not name.startswith(backbone):
        return top
    path = _parent(name)
    owner, holder = modules[path], modules[_parent(path)]
    local = name[len(backbone) :].lower()
    is_norm = "norm" in type(owner).__name__.lower()
    if isinstance(owner, nn.Embedding) or "emb" in local or (is_norm and "pre" in local):
        # also DeBERTa's and BART's, which are registered behind the blocks; an output projection called `embed_out`
        # lies outside the backbone
        return 0
    blocks = top - 1
    late = any(
        fnmatchcase(type(holder).__name__, kind) and path.rpartition(".")[2] == leaf for kind, leaf in _LATE
    ) or (is_norm and ("final" in local or "post" in local))  # OPT registers it before its blocks
    if late and reached == 0:
        return blocks
    # a module of the backbone that holds the stack holds no head: DeBERTa-v2's convolution
    beside = 0 < len(backbone) <= len(stack) and name.startswith(f"{stack}.")
    if reached < blocks or is_norm or beside:
        return reached
    return top


def _backbone(modules: dict[str, nn.Module], blocks: list[str]) -> str:
    """Return the prefix of the subtree that all but the head lies in.

    That is what Hugging Face calls the base model, if it holds the blocks; else the smallest subtree that holds all
    blocks and, outside them, all embeddings; the whole model if it has none.
    """
    for path, module in modules.items():
        base = ".".join(filter(None, [path, getattr(module, "base_model_prefix", "")]))
        if base != path and base in modules and all(block.startswith(f"{base}.") for block in blocks):
            return f"{base}."
    inside = tuple(f"{block}." for block in blocks)
    embeddings = [name for name, module in modules.items() if not name.startswith(inside) and _embeds(module)]
    if not embeddings:
        return ""
    parents = [_parent(path).split(".") for path in (*blocks, *embeddings)]
    steps = takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False))
    return "".join(f"{level[0]}." for level in steps if level[0])


def _embeds(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding) or (
        "embed" in type(module).__name__.lower() and any(True for _ in module.parameters())
    )


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _stacks(model: nn.Module) -> Iterator[list[str]]:
    """Yield the paths of the blocks of each outermost stack, in module order."""
    pending = [("", model)]
    while pending:
        path, module = pending.pop()
        children = [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
        if _is_stack(module):
            yield [name for name, _ in children]
        else:
            pending.extend(reversed(children))


def _is_stack(module: nn.Module) -> bool:
    """Say whether a module is a list of blocks; one that is also a pipeline has to repeat one class."""
    children = list(module.children())
    repeats = len({type(child) for child in children}) == 1
    listed = isinstance(module, nn.ModuleList) or (isinstance(module, nn.Sequential) and repeats)
    return listed and bool(children) and all(_is_block(child) for child in children)


def _is_block(module: nn.Module) -> bool:
    """Say whether a module is composite: at least two weight matrices, held by modules below it."""
    return sum(parameter.ndim >= 2 for name, parameter in module.named_parameters() if "." in name) >= 2
