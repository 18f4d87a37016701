"""Private names of jsonargparse that the command line uses: its parser, with replacing instead of merging.

jsonargparse 4.53 merges three times: a file or dict into the values read before it, a flag into the same values, and
all values into the defaults (of a subcommand, or of a class). No option turns this off; Lightning#18072 asks for one,
which would end most of this module. Until then, a class that is replaced is removed before each merge. If one of the
overridden names disappears, a new class again inherits arguments of the old one. See `tests/private_names.py`.
"""

from argparse import Action
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from json import dumps
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]  # the first, by `__all__`
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from lightning_sparsegrad.cli._config_files import each_read_once, located
from lightning_sparsegrad.cli._replacing import discard_replaced, entries, holds_transform, keep_other_names
from lightning_sparsegrad.errors import near_matches
from lightning_sparsegrad.untrusted._callables import maker
from lightning_sparsegrad.untrusted._safe_yaml import PARSER_MODE, load


def options(parser: ArgumentParser) -> list[str]:
    """Return the names of a parser's options, of which argparse has no public list."""
    return [action.dest for action in parser._actions]


def parser_of(parser: ArgumentParser, subcommand: str | None) -> ArgumentParser:
    """Return the parser of a subcommand, or the parser itself if there is no such subcommand."""
    subcommands = parser._subcommands_action
    known: Mapping[str, ArgumentParser] = subcommands.choices if subcommands else {}
    return known.get(subcommand or "", parser)


def check(parser: ArgumentParser, values: dict[str, Any]) -> None:
    """Validate values like those of a config file, but allow required ones to be missing.

    Raises:
        Exception: jsonargparse's own, where the parser would exit.
    """
    exits, parser.exit_on_error = parser.exit_on_error, False
    try:
        parser.parse_object(values, defaults=False, _skip_validation=True)
    finally:
        parser.exit_on_error = exits


class _ConfigFile(ActionConfigFile):
    """A flag that takes a config file, also by the name of one that comes with the package."""

    @override
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        super().__call__(parser, namespace, located(values), option_string)  # type: ignore[no-untyped-call]


class ReplacingParser(LightningArgumentParser):
    """LightningCLI's parser, in which naming a class replaces the class before it."""

    _read: Any = None  # the values that are about to be merged into the defaults

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "parser_mode": PARSER_MODE, **kwargs})

    @override
    def add_argument(self, *args: Any, **kwargs: Any) -> Action:
        """Add jsonargparse's, in which a config file may be one that comes with the package."""
        if kwargs.get("action") in ("config", ActionConfigFile):
            kwargs["action"] = _ConfigFile
        action: Action = super().add_argument(*args, **kwargs)
        return action

    @override
    def get_defaults(self, skip_validation: bool = False, **kwargs: Any) -> Namespace:
        """Return jsonargparse's defaults, without the arguments of classes that the values read replace."""
        defaults: Namespace = super().get_defaults(skip_validation, **kwargs)
        if self._read:
            discard_replaced(defaults, self._read)
        return defaults

    @override
    def _apply_actions(
        self, cfg: Any, parent_key: str = "", prev_cfg: Namespace | None = None, skip_fn: Any = None
    ) -> Namespace:
        if prev_cfg:
            cfg = cfg if isinstance(cfg, Namespace) else Namespace(cfg)  # type: ignore[no-untyped-call]
            keep_other_names(prev_cfg, cfg)
            discard_replaced(prev_cfg, cfg)
        applied: Namespace = super()._apply_actions(cfg, parent_key, prev_cfg, skip_fn)
        return applied

    @override
    def _parse_known_args_internal(
        self, args: Sequence[str] | None = None, namespace: Any = None, **kwargs: Any
    ) -> tuple[Any, list[str]]:
        if self._get_positional_actions() or self._mutually_exclusive_groups:  # argparse must see all of these together
            return super()._parse_known_args_internal(args, namespace, **kwargs)  # type: ignore[no-any-return]
        unknown: list[str] = []
        for flag in _flags(args or []):
            if misnamed := _misnamed(namespace, flag):
                self.error(misnamed)
            discard_replaced(namespace, _as_mapping(flag))
            namespace, rest = super()._parse_known_args_internal(self._with_maker(flag), namespace, **kwargs)
            unknown += rest
        return namespace, unknown

    @override
    def parse_args(  # type: ignore[override]
        self,
        args: Any = None,
        namespace: Namespace | None = None,
        env: Any = None,
        defaults: bool = True,
        **kwargs: Any,
    ) -> Namespace:
        with each_read_once():
            if namespace and kwargs.get("_namespace_as_config"):  # from a file given before the subcommand
                namespace = self.parse_object(namespace, env=env, defaults=defaults, _skip_validation=True)
            with self._over_defaults(namespace):
                parsed: Namespace = super().parse_args(args, namespace, env, defaults, **kwargs)
        return parsed

    @override
    def parse_object(
        self, obj: Any, namespace: Namespace | None = None, env: Any = None, defaults: bool = True, **kwargs: Any
    ) -> Namespace:
        with each_read_once():
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
        before, self._read = self._read, read  # calls nest: a class has a parser of its own
        try:
            yield
        finally:
            self._read = before

    # ------------------------------------------------------------ functions that return an instance
    @override
    def _check_value_key(self, action: Action, value: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        if (typehint := getattr(action, "_typehint", None)) is not None:
            value = maker(value, typehint)
        elif isinstance(action, ActionConfigFile):  # of a dict
            value = located(value)
        return super()._check_value_key(action, value, key, *args, **kwargs)

    @override
    def add_function_arguments(self, function: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments without links, which jsonargparse would pass to functions that do not take them."""
        kwargs.pop("linked_targets", None)
        names: list[str] = super().add_function_arguments(function, *args, **kwargs)
        return names

    def _with_maker(self, flag: Sequence[str]) -> Sequence[str]:
        """Return a flag with a function expanded to a class path, so that its arguments can follow as flags."""
        for name, value in _as_mapping(flag).items():
            for action in self._actions:
                spec = maker(value, getattr(action, "_typehint", None)) if action.dest == name else value
                if spec is not value:
                    return [f"--{name}={dumps(spec)}"]
        return flag


def _flags(arguments: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split arguments before each long flag; yield at least one piece, for which argparse sets the defaults."""
    starts = [i for i, argument in enumerate(arguments) if argument.startswith("--") and i]
    for start, end in zip([0, *starts], [*starts, len(arguments)], strict=True):
        yield arguments[start:end]


def _as_mapping(flag: Sequence[str]) -> dict[str, Any]:
    """Return the content of a config file that is equivalent to a flag."""
    if not flag or not flag[0].startswith("--"):
        return {}
    name, equals, value = flag[0][2:].partition("=")
    value = value if equals else "".join(flag[1:2])
    try:
        return {name: load(value)}
    except yaml.YAMLError:
        return {name: value}


def _misnamed(before: Any, flag: Sequence[str]) -> str:
    """Return an error sentence if a flag sets an argument of a named transform that the chain does not have."""
    name = flag[0].partition("=")[0].removeprefix("--") if flag else ""
    keys = name.split(".")
    for depth, (key, following) in enumerate(pairwise(keys)):
        if not isinstance(before, Mapping | Namespace):
            break
        if isinstance(before, Namespace) and key not in before:
            before = before.get("init_args") or {}
        elif key not in before and following != "class_path" and holds_transform(before):
            at = ".".join(keys[:depth])
            return f"`{key}` is not a transform at `{at}`, in `{flag[0]}`.{near_matches(key, before)}"
        before = before.get(key)
    return ""
