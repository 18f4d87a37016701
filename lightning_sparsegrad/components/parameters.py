"""The parameters of a model by name: each tensor once, found by any of its names."""

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from torch import nn

from lightning_sparsegrad.components._patterns import as_patterns, matching
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.functional._torch import WRAPPERS, tables_of, uncompiled


class NamedParameters:
    """The parameters of a module tree, under names relative to its root.

    A tensor with several names (tied weights) appears once, under the first of them, and is found by any of them.
    Prefixes of wrappers are stripped, so that a pattern means the same with and without them.

    Args:
        model: The root; a `DistributedDataParallel` wrapper around it, compiled or not, is removed.

    Attributes:
        model: The root without the wrapper.
        tensors: Name to parameter, in the order of `model.named_parameters()`.
        roles: Name to all names of that parameter, itself first.
        owners: Name to the path, wrappers included, of the module that holds the parameter under that name.

    Raises:
        ConfigurationError: If the model has no parameters.

    Example:
        >>> model = nn.ModuleDict({"encoder": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
        >>> sorted(NamedParameters(model).select("include", ["encoder.*"]))
        ['encoder.bias', 'encoder.weight']
    """

    def __init__(self, model: nn.Module) -> None:
        wrapper = uncompiled(model)
        self.model = wrapper.module if isinstance(wrapper, nn.parallel.DistributedDataParallel) else model
        self.tensors: dict[str, nn.Parameter] = {}
        self.roles: dict[str, tuple[str, ...]] = {}
        self.owners: dict[str, str] = {}
        names: dict[int, str] = {}
        for wrapped, parameter in self.model.named_parameters(remove_duplicate=False):
            role = plain_name(wrapped)
            name = names.setdefault(id(parameter), role)
            self.tensors[name] = parameter
            self.owners.setdefault(name, wrapped.rpartition(".")[0])
            self.roles[name] = (*self.roles.get(name, ()), role)
        if not self.tensors:
            raise ConfigurationError(
                f"Parameter `model` should have parameters. Found `{type(model).__name__}` without."
            )
        # the modules' own dictionaries: walking the tree by name in every window would cost as much as a clip
        self._tables = [table for module in self.model.modules() for table in tables_of(module)]
        self._members = [member for table in self._tables for member in table.values()]  # keeps their ids unique

    @property
    def has_same_members(self) -> bool:
        """Whether no parameter or module was added to the model after this view of it was created."""
        return self._known.issuperset(map(id, chain.from_iterable(map(dict.values, self._tables))))

    @cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(map(id, self._members))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_known"}  # a copy has other ids

    def newcomers(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names and parameters that were added to the model after this view of it was created."""
        if self.has_same_members:
            return
        known = {id(parameter) for parameter in self.tensors.values()}
        for name, parameter in self.model.named_parameters():
            if id(parameter) not in known:
                yield name, parameter

    def refuse_moving(self, strategy: object, names: Collection[str] | None = None) -> None:
        """Refuse embeddings that change their rows in the forward pass, where a strategy freezes some of them.

        Args:
            strategy: The strategy, named in the error.
            names: The parameters of which a part is frozen; by default, any may be.

        Raises:
            ConfigurationError: If one of them is the weight of an embedding with `max_norm`.
        """
        for name, max_norm in self._moving.items():
            if names is None or name in names:
                raise ConfigurationError(
                    f"Parameter `max_norm` of embeddings should be None with `{strategy!r}`: the forward pass "
                    f"would change frozen rows. Found `max_norm = {max_norm}` for `{name}`."
                )

    @cached_property
    def _moving(self) -> dict[str, float]:
        """The weights of embeddings with `max_norm`, by name."""
        known = {id(tensor): name for name, tensor in self.tensors.items()}
        embeddings = (module for module in self.model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag))
        return {
            known[id(module.weight)]: module.max_norm
            for module in embeddings
            if module.max_norm is not None and id(module.weight) in known
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, name: str) -> nn.Parameter:
        return self.tensors[name]

    @property
    def all_names(self) -> list[str]:
        """Every name of every parameter."""
        return [role for roles in self.roles.values() for role in roles]

    def matched(self, pattern: str, *, parameter: str) -> set[str]:
        """Return every name, tied ones included, that a glob matches.

        Raises:
            ConfigurationError: If nothing matches; the message names `parameter` and lists near matches.
        """
        return set(matching(pattern, self.all_names, parameter=parameter))

    def select(self, parameter: str, patterns: str | Sequence[str] | None) -> set[str]:
        """Return the first names of all parameters with a name that matches any of the patterns.

        Args:
            parameter: What the patterns were given for (`include`, say), named in the error.
            patterns: One glob or several; each has to match something.
        """
        matches: set[str] = set()
        for pattern in as_patterns(patterns):
            matches |= self.matched(pattern, parameter=parameter)
        return {name for name, roles in self.roles.items() if matches.intersection(roles)}

    def filtered(self, include: str | Sequence[str] | None, exclude: str | Sequence[str] | None) -> list[str]:
        """Return the parameters that are included (all by default) and not excluded.

        Raises:
            ConfigurationError: If a pattern matches nothing, or nothing is left.
        """
        included = set(self) if include is None else self.select("include", include)
        left = included - self.select("exclude", exclude)
        if not left:
            raise ConfigurationError(
                f"Parameters `include` and `exclude` should leave something. Found `include = {include}`, "
                f"`exclude = {exclude}`, which leave none of {len(self)} parameters."
            )
        return [name for name in self if name in left]


def plain_name(name: str) -> str:
    """Strip the segments that wrappers insert into a name."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def plain_class(module: nn.Module) -> type:
    """Return the class of a module, without the one that `fully_shard` or `replicate` derived from it."""
    bases = type(module).__bases__
    return bases[1] if bases[0].__name__ in {"FSDPModule", "ReplicateModule"} else type(module)
