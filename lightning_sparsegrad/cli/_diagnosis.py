"""One line for what jsonargparse says in fifty: the mistake, its place and near matches."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_sparsegrad.cli._replacing import imported
from lightning_sparsegrad.errors import near_matches
from lightning_sparsegrad.loops._twins import about_twin
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.base import GradientTransform
from lightning_sparsegrad.untrusted._safe_yaml import how_to_quote, load
from lightning_sparsegrad.untrusted._terminal import shown

DEBUG_VARIABLE = "SPARSEGRAD_DEBUG"
HINT = f"({DEBUG_VARIABLE}=1 shows the full text.)"
_CONFIG_SUFFIXES = {".yaml", ".yml", ".json"}
_OF_THE_MODEL = {"optimizer", "lr_scheduler"}
_NAMEABLE = (
    GradientTransform,
    Schedule,
    LightningModule,
    LightningDataModule,
    Callback,
    Logger,
    Optimizer,
    LRScheduler,
)

# what jsonargparse writes around a fault, and what it lists beside it
_CONTEXT = re.compile(r"Parser key \"(?P<key>[^\"]*)\".*:$|Problem with given class_path '(?P<owner>[^']*)':$|Errors:$")
_NOISE = re.compile(
    r"$|Does not validate|Subtypes:|Given value|Subclass types expect|a (class path|dict) |Expected a path but"
)
_UNKNOWN_ARGUMENT = re.compile(r"(?:Type .*: )?Option '(?P<name>[^']*)' is not accepted(?! before)")
_UNKNOWN_OPTION = re.compile(
    r"Subcommand '(?P<subcommand>.*)' does not accept option '(?P<key>.*)'"
    r"|Group '(?P<group>.*)' does not accept option '(?P<option>.*)'"
    r"|unrecognized arguments: -*(?P<flag>[^\s=]*)"
)
_UNKNOWN_CLASS = re.compile(
    r"Expected a dot import path string: (?P<name>.*)|Unexpected import path format: (?P<path>.*)"
    r"|module '.*' has no attribute '(?P<attribute>.*)'|No module named '(?P<module>[^']*)'"
)
_MISSING_FILE = re.compile(r"(?:Parser key \".*\": )?File does not exist: '(?P<path>.*)'")
_WRONG_VALUE = re.compile(r"(?:Expected an?|Not a valid subclass of) (?P<expected>.*)\. Got value: (?P<value>.*)")
_DENIED = re.compile(r"Importing '(?P<name>[\w.]+)' is not allowed")
_OF_A_CALLABLE = re.compile(r"Type .* expects a function or a callable class: (.*?)\.?(?: Got value: .*)?$")
_WRONG_KIND = re.compile(r"Import path (?:(?P<path>\S+) )?does not correspond to a subclass of (?P<base>\w+)")
_GIVEN = re.compile(r"Given value: (?P<path>[\w.]+)$", re.MULTILINE)
_REQUIRED = re.compile(r"the following arguments are required: (?P<names>.*)")
_WRONG_CHOICE = re.compile(r"invalid choice: '(?P<name>[^']*)' \(choose from (?P<names>[^)]*)\)")


def debugging() -> bool:
    """Whether the user asks for full texts and tracebacks."""
    return os.environ.get(DEBUG_VARIABLE, "0") not in {"", "0"}


def diagnose(message: str, parser: ArgumentParser) -> str:
    """Return one line that names the mistake in a text of jsonargparse, its place and near matches.

    Args:
        message: The text: a tree by indentation, in which every union of types lists why each of them failed.
        parser: The parser that was at work; it knows the options and the arguments it was given.
    """
    given: Sequence[str] = vars(parser).get("args") or ()
    return shown(" ".join(f"{_sentence(message, parser, given)} {HINT}".split()))


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line; of one that lists why each type of a union failed, the reason."""
    return shown(" ".join(f"{Fault.find(str(error) or repr(error)).text} {HINT}".split()))


@dataclass(frozen=True)
class Fault:
    """The innermost line of a text of jsonargparse, and those above and below it.

    Args:
        lines: The indentation and the text of each line.
        index: The line that tells what is wrong.
    """

    lines: list[tuple[int, str]]
    index: int

    @classmethod
    def find(cls, message: str) -> "Fault":
        """Find the deepest line that is neither context nor noise; of equals, rather none that says 'Expected'."""
        lines = [_indented(line) for line in message.splitlines()] or [(0, message)]

        def depth(index: int) -> tuple[bool, int, bool]:
            indent, text = lines[index]
            telling = not _CONTEXT.match(text) and not _NOISE.match(text)
            return telling, indent, not text.startswith(("Expected", "Not a valid"))

        return cls(lines, max(range(len(lines)), key=depth))

    @property
    def text(self) -> str:
        """What is wrong; a text without context is all about it."""
        texts = [text for _, text in self.lines]
        bare = not any(_CONTEXT.match(text) or text.startswith("Does not validate") for text in texts)
        return " ".join(texts) if bare else texts[self.index]

    @cached_property
    def above(self) -> list[re.Match[str]]:
        """The context of the fault, from the innermost on."""
        found, indent = [], self.lines[self.index][0]
        for other, text in reversed(self.lines[: self.index]):
            match = _CONTEXT.match(text)
            if other < indent and match:
                found.append(match)
                indent = other
        return found

    @property
    def key(self) -> str:
        """Where it is: the keys above, joined by dots."""
        return ".".join(match["key"] for match in reversed(self.above) if match["key"])

    @property
    def owner(self) -> str | None:
        """The class whose argument it is."""
        named = re.search(r"class_path='([^']*)'", self.text)  # how a callable's class is named
        return named[1] if named else next((match["owner"] for match in self.above if match["owner"]), None)

    @property
    def value(self) -> tuple[str, str] | None:
        """What is allowed and what was found, if a value is of no type of a union, or not of the only one."""
        if self.above and self.above[0][0] == "Errors:" and self.text.startswith(("Expected", "Not a valid")):
            before = [text for _, text in self.lines[: self.index] if text.startswith("Subtypes: ")]
            after = [text for _, text in self.lines[self.index :] if text.startswith("Given value:")]
            if before and after:  # else the text is worded otherwise, and is shown as it is
                return before[-1].removeprefix("Subtypes: ")[1:-1], after[0].removeprefix(
                    "Given value:"
                ).strip() or "''"
        match = _WRONG_VALUE.match(self.text)
        return (match["expected"], match["value"]) if match else None


def _indented(line: str) -> tuple[int, str]:
    text = line.lstrip(" ")
    indent = len(line) - len(text)
    return (indent + 2, text[2:].rstrip()) if text.startswith("- ") else (indent, text.rstrip())


def _sentence(message: str, parser: ArgumentParser, given: Sequence[str]) -> str:
    if '"<unicode string>", line' in message:
        return _broken_yaml(message, given)
    fault = Fault.find(message)
    text, key = _OF_A_CALLABLE.sub(r"\1", fault.text), fault.key
    at = f" at `{key}`" if key else ""
    if match := _UNKNOWN_ARGUMENT.match(text):
        name = match["name"].partition(".")[0]
        if not fault.owner and not key:
            return _unknown_option(name, parser, given)
        allowed = {*_parameters(fault.owner), "class_path", "init_args"}
        owner = fault.owner.rpartition(".")[2] if fault.owner else "this class"
        return f"`{name}` is no argument of `{owner}`{at}{_written(given, name)}.{near_matches(name, allowed)}"
    if match := _UNKNOWN_OPTION.match(text):
        parsers = parser._subcommands_action.choices if match["subcommand"] else {}  # type: ignore[union-attr]
        option = match["key"] or match["flag"] or f"{match['group']}.{match['option']}"
        return _unknown_option(option, parsers.get(match["subcommand"], parser), given)
    if match := _MISSING_FILE.match(text):
        path = Path(match["path"])
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        return f"There is no file `{match['path']}`.{near_matches(path.name, beside)}"
    if fault.value is not None:
        expected, found = fault.value
        found = (re.match(r"NestedArg\(key='.*', val='?(.*?)'?\)$", found) or ["", found])[1]
        parent, _, name = key.rpartition(".")
        at = f" at `{parent}`" if parent else ""
        near = near_matches(found, _class_names(expected))
        return (
            f"Parameter `{name}` should be {_types(expected)}{at}{_written(given, name, found)}. "
            f"Found `{name} = {found if len(found) < 80 else found[:80] + '...'}`.{near}{how_to_quote(expected, found)}"
        )
    if match := _UNKNOWN_CLASS.match(text):
        module = match["module"]
        dotted = re.search(rf"(?<![\w.]){re.escape(module)}\.[\w./-]+", message) if module else None
        name = match["name"] or match["path"] or match["attribute"] or (dotted[0] if dotted else module)
        is_file = Path(name).suffix in _CONFIG_SUFFIXES
        allowed = {file.name for file in Path().iterdir()} if is_file else _class_names()
        near = near_matches(name if is_file else name.rpartition(".")[2], allowed - {name})
        return f"`{name}` is no file and no class that fits{at}{_written(given, name)}.{near}"
    if match := _DENIED.search(text):
        return f"`{match['name']}` may not be named in a config{at}{_written(given, match['name'])}."
    if (match := _WRONG_KIND.match(text)) and (named := match["path"] or (_GIVEN.search(message) or ["", ""])[1]):
        cls = imported(named)
        twin = about_twin(cls) if isinstance(cls, type) else ""
        return f"`{named}` is no subclass of `{match['base']}`{at}{_written(given, named)}.{twin}"
    if match := _REQUIRED.match(text):
        return f"An argument is missing{at}: `{match['names'].replace(', ', '`, `')}`."
    if match := _WRONG_CHOICE.search(text):
        names = re.findall(r"\w+", match["names"])
        return f"`{match['name']}` is none of {', '.join(names)}.{near_matches(match['name'], names)}"
    text = re.sub(r" Got value: Namespace\(.*", "", re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text))
    return f"{text.removesuffix('.')}{at}."


def _unknown_option(option: str, parser: ArgumentParser, given: Sequence[str]) -> str:
    """Say which part of `option` is the first that the parser does not know."""
    options = [action.dest.split(".") for action in parser._actions]  # argparse has no public list
    parts = option.split(".")
    for depth, part in enumerate(parts):
        allowed = {known[depth] for known in options if known[:depth] == parts[:depth] and len(known) > depth}
        if part not in allowed:
            at = f" at `{'.'.join(parts[:depth])}`" if depth else ""
            near = "" if depth else _elsewhere(part, options)
            return f"`{part}` is no option{at}{_written(given, part)}.{near or near_matches(part, allowed)}"
    return f"`{option}` is no option{_written(given, parts[-1])}."


def _elsewhere(name: str, options: list[list[str]]) -> str:
    """Say where an option is that is none by itself: among those of the Trainer, or the model's."""
    groups = [group for group, *rest in options if rest == [name]]
    if name in _OF_THE_MODEL and ["model"] in options:  # groups of LightningCLI
        groups = ["model"]
    return f" It is `--{groups[0]}.{name}`." if groups else ""


def _broken_yaml(message: str, given: Sequence[str]) -> str:
    """Name the file; jsonargparse has its text alone."""
    for path, text in _files(given):
        try:
            load(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            return f"{path} is no YAML: {error.problem}, line {line}."
    return f"There is a value that is no YAML: {message}"


def _files(given: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Return the config files among the arguments, from the last on, with their text."""
    for argument in reversed(given):
        path = Path(argument.rpartition("=")[2])
        if path.suffix in _CONFIG_SUFFIXES and path.is_file():
            yield path, path.read_text(errors="replace")


def _written(given: Sequence[str], *words: str) -> str:
    """Return the flag, or the file and line, in which all words are written; the last, if there are several."""
    pattern = re.compile(r".*?".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words))
    for argument in reversed(given):
        if argument.startswith("--") and pattern.search(argument):
            return f", in `{argument}`"
    for path, text in _files(given):
        for number, line in enumerate(text.splitlines(), start=1):
            if pattern.search(line):
                return f", in {path} line {number}"
    return ""


def _types(listed: str) -> str:
    """Return 'int or None' for `<class 'int'>, <class 'NoneType'>`."""
    short = re.sub(r"<class '([^']*)'>", r"\1", listed).replace("NoneType", "None")
    names = re.split(r", (?![^\[]*\])", re.sub(r"(?:\w+\.)+(\w+)", r"\1", short))
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _parameters(class_path: str | None) -> list[str]:
    """Return the names of what a class or function takes, those it passes on to a parent's `**kwargs` included."""
    found = imported(class_path)
    parser = ArgumentParser(exit_on_error=False)
    names: list[str] = []
    if isinstance(found, type):
        names = parser.add_class_arguments(found, fail_untyped=False)
    elif callable(found):
        names = parser.add_function_arguments(found, fail_untyped=False)
    return names


def _class_names(expected: str | None = None) -> set[str]:
    """Return the names of all imported classes that may be meant: of the types in `expected`, or of any."""
    bases = [base for base in _NAMEABLE if expected is None or f".{base.__name__}'" in expected]

    def below(base: type) -> Iterator[str]:
        subclasses: list[type] = base.__subclasses__()
        for subclass in subclasses:
            yield subclass.__name__
            yield from below(subclass)

    return {name for base in bases for name in below(base) if not name.startswith("_")}
