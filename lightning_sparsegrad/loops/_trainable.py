"""A summary of how many parameters of a module train, and which submodules are frozen."""

from collections import Counter
from collections.abc import Iterator

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from lightning_sparsegrad.components import NamedParameters

_MOST_NAMES = 8  # listed in one line


def log_trainable(module: nn.Module) -> None:
    """Log how many parameters train and which submodules do not; nothing if all train.

    Only `requires_grad` counts: a tensor that a strategy drops in one window trains in another.

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
    names = ", ".join(_described(path, sizes, frozen) for path in frozen_modules(list(sizes), frozen))
    log = rank_zero_info if trained else rank_zero_warn
    log(f"{trained:,} of {total:,} parameters train ({percent(trained / total)}). `requires_grad=False`: {names}.")


def frozen_modules(names: list[str], frozen: list[str]) -> list[str]:
    """Return the largest modules and single parameters that are frozen whole; if many, the parents of the deepest.

    Args:
        names: All parameters.
        frozen: Those that do not train, in their order.

    Returns:
        Paths, none inside another; at most 8 unless the module itself has more children.

    Example:
        >>> frozen_modules(["body.0.weight", "body.0.bias", "head.weight"], ["body.0.weight", "body.0.bias"])
        ['body']
    """
    trained = set(names).difference(frozen)
    mixed = {parent for name in trained for parent in _parents(name)}
    paths = list(
        dict.fromkeys(next((parent for parent in _parents(name) if parent not in mixed), name) for name in frozen)
    )
    while len(paths) > _MOST_NAMES and (deepest := max(path.count(".") for path in paths)):
        cut = {path: path.rpartition(".")[0] if path.count(".") == deepest else path for path in paths}
        paths = [path for path in dict.fromkeys(cut.values()) if not set(_parents(path)).intersection(cut.values())]
    inside = Counter(parent for name in names for parent in (*_parents(name), name))
    return [next(outer for outer in (*_parents(path), path) if inside[outer] == inside[path]) for path in paths]


def _parents(name: str) -> Iterator[str]:
    """Yield the paths of the modules that hold a parameter or a module, the outermost first."""
    steps = name.split(".")
    return (".".join(steps[:depth]) for depth in range(1, len(steps)))


def _described(path: str, sizes: dict[str, int], frozen: list[str]) -> str:
    inside = {name: size for name, size in sizes.items() if f"{name}.".startswith(f"{path}.")}
    total, trained = sum(inside.values()), sum(inside.values()) - sum(inside.get(name, 0) for name in frozen)
    return f"`{path}` ({total:,})" if not trained else f"`{path}` ({total - trained:,} of {total:,})"


def percent(share: float) -> str:
    """Return a share as text: `20.0%`, `0.0096%`."""
    return f"{share:.1%}" if share >= 0.001 else f"{100 * share:.2g}%"
