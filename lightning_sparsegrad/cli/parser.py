"""The argument parser: a class named anew replaces the one before it, and a mistake is answered in one line."""

import sys
from argparse import Action
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from json import dumps
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lightning_sparsegrad.cli._diagnosis import debugging, diagnose
from lightning_sparsegrad.cli._replacing import discard_replaced, entries, holds_transform, keep_other_names
from lightning_sparsegrad.errors import near_matches
from lightning_sparsegrad.untrusted._callables import maker
from lightning_sparsegrad.untrusted._safe_yaml import PARSER_MODE, load


class SparseGradArgumentParser(LightningArgumentParser):
    """LightningCLI's parser, in which **a file or flag that names another class replaces the one before it**.

    jsonargparse merges: an `AdamW(lr=0.001, weight_decay=0.01)` of one file, overlaid by a flag that names `SGD`,
    becomes `SGD(lr=0.001, weight_decay=0.01)`, even if the decay was the model's default for AdamW; and lists of equal
    length are merged by position. Here a class that takes the place of another has nothing of it, neither what was read
    before nor a default: an optimizer, a scheduler, the data, the model, a logger, an item of `trainer.callbacks`. A
    model's strategy alone stays, unless the new one comes with its own. What names no class, or the same one again,
    refines what was read before. Gradient transforms, and schedules inside them, start anew whenever their class is
    named, be it the same: `gradient_transform: {init_args: {rate: 0.4}}` changes the rate alone, and a named part of a
    `Chain` can be given by itself.

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
    # and what was read into the defaults, of a subcommand or of the class it belongs to. The class to be replaced is
    # taken out before each. An option of jsonargparse to replace rather than merge would end this section.

    _read: Any = None  # what the defaults are about to be merged with

    def get_defaults(self, skip_validation: bool = False, **kwargs: Any) -> Namespace:
        """Return jsonargparse's, without the arguments of classes that what was read replaces."""
        defaults: Namespace = super().get_defaults(skip_validation, **kwargs)
        if self._read:
            discard_replaced(defaults, self._read)
        return defaults

    def _apply_actions(
        self, cfg: Any, parent_key: str = "", prev_cfg: Namespace | None = None, skip_fn: Any = None
    ) -> Namespace:
        if prev_cfg:
            cfg = cfg if isinstance(cfg, Namespace) else Namespace(cfg)  # type: ignore[no-untyped-call]
            keep_other_names(prev_cfg, cfg)
            discard_replaced(prev_cfg, cfg)
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
            discard_replaced(namespace, _as_mapping(flag))
            flag = self._with_maker(flag)
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
        with self._over_defaults(namespace):
            parsed: Namespace = super().parse_args(args, namespace, env, defaults, **kwargs)
        return parsed

    def parse_object(
        self, obj: Any, namespace: Namespace | None = None, env: Any = None, defaults: bool = True, **kwargs: Any
    ) -> Namespace:
        if namespace is None and self._subcommands_action:
            obj = entries(obj)
            for name, parser in self._subcommands_action.choices.items():
                if name in obj:
                    obj[name] = parser.parse_object(obj[name], env=env, defaults=defaults, _skip_validation=True)
        with self._over_defaults(namespace):
            parsed: Namespace = super().parse_object(obj, namespace, env, defaults, **kwargs)
        return parsed

    @contextmanager
    def _over_defaults(self, read: Any) -> Iterator[None]:
        before, self._read = self._read, read  # the parser of a class parses its own arguments inside it again
        try:
            yield
        finally:
            self._read = before

    # ------------------------------------------------------------ what may be called
    def _check_value_key(self, action: Action, value: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        if (typehint := getattr(action, "_typehint", None)) is not None:
            value = maker(value, typehint)
        return super()._check_value_key(action, value, key, *args, **kwargs)

    def add_function_arguments(self, function: Any, *args: Any, linked_targets: Any = None, **kwargs: Any) -> list[str]:  # noqa: ARG002
        """Add jsonargparse's, which passes links on to functions that do not take them."""
        names: list[str] = super().add_function_arguments(function, *args, **kwargs)
        return names

    def _with_maker(self, flag: Sequence[str]) -> Sequence[str]:
        """Return a flag that names a function which makes what its option asks for, so that arguments can follow."""
        for name, value in _as_mapping(flag).items():
            for action in self._actions:
                spec = maker(value, getattr(action, "_typehint", None)) if action.dest == name else value
                if spec is not value:
                    return [f"--{name}={dumps(spec)}"]
        return flag

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
        elif part not in before and following != "class_path" and holds_transform(before):
            at = ".".join(parts[:depth])
            return f"`{part}` is no transform at `{at}`, in `{flag[0]}`.{near_matches(part, before)}"
        before = before.get(part)
    return ""
