"""The depth of every parameter, read off the module tree of a transformer.

A stack is an outermost list of composite modules (`nn.ModuleList`, `nn.Sequential`): the blocks. Parameters outside the
blocks are classified by their position: embeddings by their type and name, final norms by the stack they follow;
everything outside the backbone, or after its last block, is the head.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import takewhile

from torch import nn

from lightning_sparsegrad.components.parameters import plain_class, plain_name
from lightning_sparsegrad.errors import ConfigurationError

# (class of the parent, name in it) of modules that run after the blocks but are registered before them
_LATE = (("OPTDecoder", "project_out"), ("*EncoderStableLayerNorm", "layer_norm"))


def depths_in_tree(model: nn.Module) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the depth of every parameter name, and the names of the layers, bottom first and without the head.

    Raises:
        ConfigurationError: If the model has no stack of blocks.
    """
    tree = _Tree(model)
    if not tree.blocks:
        raise ConfigurationError(
            f"Parameter `layers` should be given for a model whose blocks cannot be found: one pattern per layer, "
            f"bottom first. Found no list of blocks in `{type(model).__name__}`. Where `components` is 'block', "
            f"patterns can take its place."
        )
    depth_of: dict[str, int] = {}
    reached = 0
    for name, parameter in model.named_parameters(remove_duplicate=False):
        block = next((i for i, path in enumerate(tree.blocks, start=1) if name.startswith(f"{path}.")), None)
        reached = block or reached
        depth_of[plain_name(name)] = block or tree.depth_outside(name, parameter, reached)
    names = ("embeddings", *(f"block {i}" for i in range(len(tree.blocks))))
    if 0 not in depth_of.values():  # a model that takes embeddings as input: its blocks start at the bottom
        return {name: depth - 1 for name, depth in depth_of.items()}, names[1:]
    return depth_of, names


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a transformer, bottom first; an empty list if they cannot be found."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return [modules[block] for stack in _stacks(model) for block in stack]


class _Tree:
    """The blocks of a model, and the modules around them.

    Attributes:
        modules: Path to module.
        blocks: The paths of all blocks, bottom first.
        backbone: Prefix of everything but the head; empty if the tree does not show it.
        beside: Prefix of the modules beside the last stack.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.blocks = [block for stack in _stacks(model) for block in stack]
        if self.blocks:
            self.backbone = self._backbone()
            self.beside = f"{_parent(_parent(self.blocks[-1]))}."

    def depth_outside(self, name: str, parameter: nn.Parameter, reached: int) -> int:
        """Return the depth of a parameter outside all blocks; `reached` blocks come before it in the tree."""
        embeddings, last, head = 0, len(self.blocks), len(self.blocks) + 1
        if parameter.numel() == 1 or not name.startswith(self.backbone):  # a single number is a temperature, as in CLIP
            return head
        path, local = _parent(name), name.removeprefix(self.backbone).lower()
        owner = self.modules[path]
        is_norm = "norm" in plain_class(owner).__name__.lower()
        if isinstance(owner, nn.Embedding) or "emb" in local or (is_norm and "pre" in local):
            return embeddings  # including those of DeBERTa and BART, registered after the blocks
        if reached == 0 and (self._is_late(path) or (is_norm and ("final" in local or "post" in local))):
            return last
        # a submodule that contains the stack has no head (DeBERTa-v2's convolution); the backbone itself may have one
        is_beside = self.backbone not in {"", self.beside} and name.startswith(self.beside)
        is_beside = is_beside and self.beside.startswith(self.backbone)
        return reached if reached < last or is_norm or is_beside else head

    def _is_late(self, path: str) -> bool:
        """Return whether a module, or one that contains it (as with adapters), runs after the blocks."""
        while path:
            above, _, leaf = path.rpartition(".")
            kind = plain_class(self.modules[above]).__name__
            if any(fnmatchcase(kind, late_kind) and leaf == late_leaf for late_kind, late_leaf in _LATE):
                return True
            path = above
        return False

    def _backbone(self) -> str:
        """Return the prefix of the subtree that contains everything but the head.

        This is what Hugging Face calls the base model, if it contains the blocks; else the smallest subtree that
        contains all blocks and, outside them, all embeddings; the whole model if it has no embeddings.
        """
        for path, module in self.modules.items():
            prefix = getattr(type(module), "base_model_prefix", "")  # PEFT's modules pass on that of others
            base = ".".join(filter(None, [path, prefix]))
            if base != path and base in self.modules and all(block.startswith(f"{base}.") for block in self.blocks):
                return f"{base}."
        inside = tuple(f"{block}." for block in self.blocks)
        outside = {path: module for path, module in self.modules.items() if not path.startswith(inside)}
        embeddings = [path for path, module in outside.items() if _embeds(module)]
        if not embeddings:
            return ""
        parents = [_parent(path).split(".") for path in (*self.blocks, *embeddings)]
        shared = takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False))
        return "".join(f"{level[0]}." for level in shared if level[0])


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
    """Return whether a module is a list of blocks; an `nn.Sequential` has to repeat one class."""
    children = list(module.children())
    repeats = len({plain_class(child) for child in children}) == 1
    listed = isinstance(module, nn.ModuleList) or (isinstance(module, nn.Sequential) and repeats)
    return listed and bool(children) and all(_is_block(child) for child in children)


def _is_block(module: nn.Module) -> bool:
    """Return whether a module is composite: at least two weight matrices in modules below it."""
    return sum(parameter.ndim >= 2 for name, parameter in module.named_parameters() if "." in name) >= 2


def _embeds(module: nn.Module) -> bool:
    named = "embed" in plain_class(module).__name__.lower()
    return isinstance(module, nn.Embedding) or (named and any(True for _ in module.parameters()))


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
