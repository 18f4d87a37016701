"""How many parameters of a module train, and which parts of it do not."""

from collections import Counter
from collections.abc import Iterator

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from lightning_sparsegrad.components import NamedParameters

_MOST_PARTS = 8  # that one line names


def tell_what_trains(module: nn.Module) -> None:
    """Log how many parameters train and which parts do not; nothing if all train.

    Only `requires_grad` counts: what a strategy drops in a window trains in another.

    Args:
        module: The module that is fitted.
    """
    tensors = NamedParameters(module).tensors
    sizes = {name: tensor.numel() for name, tensor in tensors.items()}
    frozen = [name for name, tensor in tensors.items() if not tensor.requires_grad]
    if not frozen:
        return
    total = sum(sizes.values())
    trained = total - sum(sizes[name] for name in frozen)
    names = ", ".join(_described(part, sizes, frozen) for part in frozen_parts(list(sizes), frozen))
    log = rank_zero_info if trained else rank_zero_warn
    log(f"{trained:,} of {total:,} parameters train ({_share(trained, total)}). `requires_grad=False`: {names}.")


def frozen_parts(names: list[str], frozen: list[str]) -> list[str]:
    """Return the largest modules and single parameters that are frozen whole; of many, what the deepest are in.

    Args:
        names: All parameters.
        frozen: Those that do not train, in their order.

    Returns:
        Paths, none inside another; at most 8 unless the module itself has more parts.

    Example:
        >>> frozen_parts(["encoder.0.weight", "encoder.0.bias", "head.weight"], ["encoder.0.weight", "encoder.0.bias"])
        ['encoder']
    """
    trained = set(names).difference(frozen)
    mixed = {parent for name in trained for parent in _parents(name)}
    parts = list(
        dict.fromkeys(next((parent for parent in _parents(name) if parent not in mixed), name) for name in frozen)
    )
    while len(parts) > _MOST_PARTS and (deepest := max(part.count(".") for part in parts)):
        cut = {part: part.rpartition(".")[0] if part.count(".") == deepest else part for part in parts}
        parts = [part for part in dict.fromkeys(cut.values()) if not set(_parents(part)).intersection(cut.values())]
    inside = Counter(parent for name in names for parent in (*_parents(name), name))
    return [next(path for path in (*_parents(part), part) if inside[path] == inside[part]) for part in parts]


def _parents(name: str) -> Iterator[str]:
    """Yield the paths of the modules that hold a parameter or a module, the outermost first."""
    steps = name.split(".")
    return (".".join(steps[:depth]) for depth in range(1, len(steps)))


def _described(part: str, sizes: dict[str, int], frozen: list[str]) -> str:
    inside = {name: size for name, size in sizes.items() if f"{name}.".startswith(f"{part}.")}
    total, trained = sum(inside.values()), sum(inside.values()) - sum(inside.get(name, 0) for name in frozen)
    return f"`{part}` ({total:,})" if not trained else f"`{part}` ({total - trained:,} of {total:,})"


def _share(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.1f}%" if share >= 0.1 else f"{share:.2g}%"
