"""The argument parser: a strategy named anew replaces the one before it, and a mistake is answered in one line."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from pydoc import locate
from typing import Any, NoReturn, get_type_hints

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import Path_fr
from lightning.pytorch.cli import LightningArgumentParser

from lightning_sparsegrad.diagnosis import debugging, diagnose
from lightning_sparsegrad.errors import ConfigurationError, near_matches
from lightning_sparsegrad.safe_yaml import PARSER_MODE, load
from lightning_sparsegrad.transforms.base import GradientTransform


class SparseGradArgumentParser(LightningArgumentParser):
    """LightningCLI's parser, in which **a file or flag that names a gradient transform replaces the one before it**.

    jsonargparse merges: a `GradDrop(rate=0.3, seed=9)` of one file, overlaid by a file that names `LayerGradDrop`,
    becomes `LayerGradDrop(rate=0.3, seed=9)`, and lists of equal length are merged by position. Here nothing of what
    was read before reaches a transform, or a schedule inside one, whose class is named again, be it the same class;
    nor an item of a list (`trainer.callbacks`) that holds a transform. Without a class, a file or flag refines:
    `gradient_transform: {init_args: {rate: 0.4}}` changes the rate alone, and a named part of a `Chain` can be given
    by itself. All other arguments are merged as ever.

    A mistake is answered in one line that names it, its place and near matches. `SPARSEGRAD_DEBUG=1` in the environment
    gives jsonargparse's whole text. A flag is written out: `--trainer.max_epoch` does not stand for
    `--trainer.max_epochs`.

    Note:
        In a parser with positional arguments or mutually exclusive groups of its own, flags are merged as jsonargparse
        does; files replace there, too.

    Args:
        *args: What `LightningArgumentParser` takes.
        **kwargs: What `LightningArgumentParser` takes.

    Example:
        >>> from lightning.pytorch.cli import LightningCLI
        >>> class MyCLI(LightningCLI):
        ...     def __init__(self, **kwargs):
        ...         super().__init__(parser_class=SparseGradArgumentParser, **kwargs)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "parser_mode": PARSER_MODE, **kwargs})

    # ------------------------------------------------------------ replacing instead of merging
    # jsonargparse merges in three places: what is read (files, dicts) into what was read before; a flag into the same;
    # and all of it, at last, into the defaults of the subcommand. The class to be replaced is taken out before the
    # first two; what enters the third is complete, so that no default shows through. An option of jsonargparse to
    # replace rather than merge would end this section.

    def _apply_actions(
        self, cfg: Any, parent_key: str = "", prev_cfg: Namespace | None = None, skip_fn: Any = None
    ) -> Namespace:
        if prev_cfg:
            cfg = cfg if isinstance(cfg, Namespace) else Namespace(cfg)  # type: ignore[no-untyped-call]
            _keep_other_names(prev_cfg, cfg)
            _discard_replaced(prev_cfg, cfg)
        applied: Namespace = super()._apply_actions(cfg, parent_key, prev_cfg, skip_fn)
        return applied

    def _parse_known_args_internal(
        self, args: Sequence[str] | None = None, namespace: Any = None, **kwargs: Any
    ) -> tuple[Any, list[str]]:
        if self._get_positional_actions() or self._mutually_exclusive_groups:  # argparse has to see these at once
            return super()._parse_known_args_internal(args, namespace, **kwargs)  # type: ignore[no-any-return]
        unknown: list[str] = []
        for flag in _flags(args or []):
            if misnamed := _misnamed(namespace, flag):
                self.error(misnamed)
            _discard_replaced(namespace, _as_mapping(flag))
            namespace, rest = super()._parse_known_args_internal(flag, namespace, **kwargs)
            unknown += rest
        return namespace, unknown

    def parse_args(  # type: ignore[override]
        self,
        args: Any = None,
        namespace: Namespace | None = None,
        env: Any = None,
        defaults: bool = True,
        **kwargs: Any,
    ) -> Namespace:
        if namespace and kwargs.get("_namespace_as_config"):  # a subcommand's part of a file named before it
            namespace = self.parse_object(namespace, env=env, defaults=defaults, _skip_validation=True)
        parsed: Namespace = super().parse_args(args, namespace, env, defaults, **kwargs)
        return parsed

    def parse_object(
        self, obj: Any, namespace: Namespace | None = None, env: Any = None, defaults: bool = True, **kwargs: Any
    ) -> Namespace:
        if namespace is None and self._subcommands_action:
            obj = _entries(obj)
            for name, parser in self._subcommands_action.choices.items():
                if name in obj:
                    obj[name] = parser.parse_object(obj[name], env=env, defaults=defaults, _skip_validation=True)
        parsed: Namespace = super().parse_object(obj, namespace, env, defaults, **kwargs)
        return parsed

    # ------------------------------------------------------------ one line per mistake
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write one line that names the mistake, its place and near matches to stderr, and exit with status 2."""
        if debugging() or not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"error: {diagnose(message, self)}\n")
        self.exit(2)


def _flags(arguments: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split arguments before each long flag; yield at least one part, in which argparse sets defaults."""
    starts = [i for i, argument in enumerate(arguments) if argument.startswith("--") and i]
    for start, end in zip([0, *starts], [*starts, len(arguments)], strict=True):
        yield arguments[start:end]


def _as_mapping(flag: Sequence[str]) -> dict[str, Any]:
    """Return what a file would have to hold to say what a flag says."""
    if not flag or not flag[0].startswith("--"):
        return {}
    name, equals, value = flag[0][2:].partition("=")
    value = value if equals else "".join(flag[1:2])
    try:
        return {name: load(value)}
    except yaml.YAMLError:
        return {name: value}


def _misnamed(before: Any, flag: Sequence[str]) -> str:
    """Return a sentence if a flag is about an argument of a named transform that the chain read so far has not."""
    name = flag[0].partition("=")[0].removeprefix("--") if flag else ""
    parts = name.split(".")
    for depth, (part, following) in enumerate(pairwise(parts)):
        if not isinstance(before, Mapping | Namespace):
            break
        if isinstance(before, Namespace) and part not in before:
            before = before.get("init_args") or {}
        elif part not in before and following != "class_path" and _holds_transform(before):
            at = ".".join(parts[:depth])
            return f"`{part}` is no transform at `{at}`, in `{flag[0]}`.{near_matches(part, before)}"
        before = before.get(part)
    return ""


def _discard_replaced(before: Any, new: Any, *, inside: bool = False) -> bool:
    """Take out of `before`, in place, each transform that `new` names a class for.

    Args:
        before: What was read so far.
        new: What comes over it, as it was written: file names, short class names and `a.b: value` included.
        inside: Whether `before` belongs to a transform, where schedules are replaced as well.

    Returns:
        Whether the whole of `before` is replaced.
    """
    if isinstance(before, list):
        if isinstance(new, list) and len(new) == len(before):
            for index, value in enumerate(new):
                _discard_entry(before, index, value, inside=inside or _holds_transform(before[index]))
        return False
    if not isinstance(before, (Mapping, Namespace)):
        return False
    new = read_config(new)
    entries = _entries(new)
    if "class_path" in before:
        inside = inside or _is_transform(before["class_path"])
        if inside and (isinstance(new, str) or "class_path" in entries):
            return True
        before = before.get("init_args")
        if not isinstance(before, (Mapping, Namespace)):  # none, or what jsonargparse will refuse
            return False
        entries |= _entries(entries.get("init_args"))
    for key, value in entries.items():
        if before.get(key) is not None:
            _discard_entry(before, key, value, inside=inside)
    return False


def _discard_entry(before: Any, key: Any, new: Any, *, inside: bool) -> None:
    if not _discard_replaced(before[key], new, inside=inside):
        return
    if isinstance(before, Namespace):
        before.pop(key)
    else:  # of a chain, the other transforms and their order stay
        before[key] = deepcopy(new)


def _keep_other_names(before: Namespace, new: Namespace) -> None:
    """Complete the named transforms in `new` by those it leaves alone, which jsonargparse would drop."""
    for key, named in _entries(new).items():
        chain = before.get(key)
        if isinstance(chain, dict) and isinstance(named, Mapping) and _holds_transform(chain):
            for name, transform in named.items():
                if name not in chain and isinstance(transform, Mapping) and "class_path" not in _entries(transform):
                    raise ConfigurationError(f"`{name}` is no transform of the chain.{near_matches(str(name), chain)}")
            new[key] = {**chain, **named}


def _entries(value: Any) -> dict[str, Any]:
    """Return the entries of a mapping with `a.b: value` written as `a: {b: value}`; none of anything else."""
    if isinstance(value, Namespace):
        value = dict(value.items(branches=True, nested=False))
    entries: dict[str, Any] = {}
    for key, entry in value.items() if isinstance(value, Mapping) else ():
        head, _, rest = str(key).partition(".")
        entries[head] = {**_entries(entries.get(head)), rest: entry} if rest else entry
    return entries


def read_config(value: Any) -> Any:
    """Return the content of the file that `value` names, if it names one.

    Raises:
        ConfigurationError: If the file is no text.
    """
    try:
        return load(Path_fr(value).read_text()) if isinstance(value, str) and "\0" not in value else value
    except (TypeError, yaml.YAMLError):  # no file, or none that jsonargparse will accept
        return value
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"Config files should be text in UTF-8. Found `{value}`: {error}.") from error


def _holds_transform(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_transform, value))
    entries = _entries(value)
    return _is_transform(entries.get("class_path")) or any(map(_holds_transform, entries.values()))


def _is_transform(class_path: Any) -> bool:
    found = locate(class_path) if isinstance(class_path, str) else None
    if callable(found) and not isinstance(found, type):  # a function that returns one
        found = get_type_hints(found).get("return")
    return isinstance(found, type) and issubclass(found, GradientTransform)
