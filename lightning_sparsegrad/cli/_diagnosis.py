"""One-line diagnoses of jsonargparse's errors: the mistake, its position, and near matches."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_sparsegrad.cli._config_files import texts
from lightning_sparsegrad.cli._faults import Fault, as_line
from lightning_sparsegrad.cli._jsonargparse import options, parser_of
from lightning_sparsegrad.cli._replacing import imported
from lightning_sparsegrad.errors import near_matches
from lightning_sparsegrad.files._shipped import shipped_configs
from lightning_sparsegrad.loops._twins import about_twin
from lightning_sparsegrad.schedules import Schedule
from lightning_sparsegrad.transforms.base import GradientTransform
from lightning_sparsegrad.untrusted._safe_yaml import how_to_quote, load

_NAMED = (GradientTransform, Schedule, LightningModule, LightningDataModule, Callback, Logger, Optimizer, LRScheduler)
_OF_THE_MODEL = {"optimizer", "lr_scheduler"}
_LONGEST = 80  # characters of a value


def diagnose(message: str, parser: ArgumentParser) -> str:
    """Return one line for an error of jsonargparse: the mistake, its position and near matches.

    Args:
        message: The text of the error.
        parser: The parser that raised it; it knows its options and the arguments it was given.
    """
    fault = Fault.find(message)
    answers = (answer(fault, match, parser) for rule, answer in RULES.items() if (match := rule.search(fault.text)))
    # without Python's reprs
    plain = re.sub(r" Got value: Namespace\(.*", "", re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", fault.text))
    sentence = next(filter(None, answers), f"{plain.removesuffix('.')}{fault.at}.")
    return as_line(sentence)


def _written(parser: ArgumentParser, *words: str) -> str:
    """Return the last flag, else file and line, that contains all words."""
    pattern = re.compile(r".*?".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words))
    for argument in reversed(vars(parser).get("args") or ()):
        if argument.startswith("--") and pattern.search(argument):
            return f", in `{argument}`"
    lines = ((name, *line) for name, text in texts() for line in enumerate(text.splitlines(), start=1))
    return next((f", in {name} line {number}" for name, number, line in lines if pattern.search(line)), "")


# ------------------------------------------------------------ rules: from jsonargparse's sentences to ours
def _broken_yaml(fault: Fault, _: re.Match[str], __: ArgumentParser) -> str:
    for name, text in texts():  # jsonargparse names no file
        try:
            load(text)
        except yaml.YAMLError as error:
            problem, mark = (vars(error).get(each) for each in ("problem", "problem_mark"))
            return f"{name} is not valid YAML: {f'{problem}, line {mark.line + 1}' if mark else error}."
    return f"A value is not valid YAML: {fault.message}"


def _unknown_argument(fault: Fault, match: re.Match[str], parser: ArgumentParser) -> str:
    if not fault.owner and not fault.key:
        return _unknown_option(fault, match, parser)
    name, owner = match["name"].partition(".")[0], fault.owner.rpartition(".")[2] or "this class"
    near = near_matches(name, {*_parameters(fault.owner), "class_path", "init_args"})
    return f"`{name}` is not an argument of `{owner}`{fault.at}{_written(parser, name)}.{near}"


def _unknown_option(_: Fault, match: re.Match[str], parser: ArgumentParser) -> str:
    """Name the first word of a dotted option that the parser does not know."""
    words = match["name"].split(".")
    known = [name.split(".") for name in options(parser_of(parser, match.groupdict().get("subcommand")))]
    for depth, word in enumerate(words):
        allowed = {each[depth] for each in known if each[:depth] == words[:depth] and len(each) > depth}
        if word not in allowed:
            at = f" at `{'.'.join(words[:depth])}`" if depth else ""
            groups = [first for first, *rest in known if rest == [word] and not depth]
            if word in _OF_THE_MODEL and ["model"] in known:  # groups of LightningCLI
                groups = ["model"]
            near = f" It is `--{groups[0]}.{word}`." if groups else near_matches(word, allowed)
            return f"`{word}` is not an option{at}{_written(parser, word)}.{near}"
    return ""


def _missing_file(fault: Fault, match: re.Match[str], __: ArgumentParser) -> str:
    path = Path(match["name"])
    if fault.message.startswith('Parser key "config"'):
        name = (path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path).as_posix()
        files = [(Path(name).parent / file).as_posix() for file in _files(path.parent) if file != path.name]
        files = files if path.suffix else [file.removesuffix(".yaml") for file in files]
        shipped = shipped_configs()
        alike = [each for each in shipped if each.rpartition("/")[2] == path.stem]  # by another path, or by none
        near = near_matches(alike[0], alike) if alike else near_matches(name, [*files, *shipped])
        return f"There is no config `{name}`, neither a file nor one of the package.{near}"
    return f"There is no file `{match['name']}`.{near_matches(path.name, _files(path.parent))}"


def _no_arguments(fault: Fault, match: re.Match[str], parser: ArgumentParser) -> str:
    read = dict(texts())
    if (name := match["name"]) and name not in read:
        return _missing_file(fault, match, parser)
    name = next((file for file, text in read.items() if not isinstance(load(text), dict)), name)
    return f"A config file should hold arguments by name. Found none in `{name}`."


def _wrong_value(fault: Fault, match: re.Match[str], parser: ArgumentParser) -> str:
    expected, value = match["expected"], match["value"]
    value = (re.match(r"NestedArg\(key='.*', val='?(.*?)'?\)$", value) or ["", value])[1]
    short = value if len(value) < _LONGEST else f"{value[:_LONGEST]}..."
    parent, _, name = fault.key.rpartition(".")
    return (
        f"Parameter `{name}` should be {_types(expected)}{f' at `{parent}`' if parent else ''}"
        f"{_written(parser, name, value)}. Found `{name} = {short}`."
        f"{near_matches(value, _class_names(expected))}{how_to_quote(expected, value)}"
    )


def _unknown_class(fault: Fault, match: re.Match[str], parser: ArgumentParser) -> str:
    name = match[match.lastgroup or 0]
    if match.lastgroup == "module":
        name = (re.search(rf"(?<![\w.]){re.escape(name)}\.[\w./-]+", fault.message) or [name])[0]
    is_file = Path(name).suffix in {".yaml", ".yml", ".json"}
    allowed = _files(Path()) if is_file else _class_names() - {name}
    near = near_matches(name if is_file else name.rpartition(".")[2], allowed)
    return f"`{name}` is neither a file nor a class that fits{fault.at}{_written(parser, name)}.{near}"


def _denied(fault: Fault, match: re.Match[str], parser: ArgumentParser) -> str:
    return f"`{match['name']}` may not be named in a config{fault.at}{_written(parser, match['name'])}."


def _wrong_kind(fault: Fault, match: re.Match[str], parser: ArgumentParser) -> str:
    given = re.search(r"Given value: ([\w.]+)$", fault.message, re.MULTILINE)
    if not (name := match["name"] or (given[1] if given else "")):
        return ""
    cls = imported(name)
    twin = about_twin(cls) if isinstance(cls, type) else ""
    return f"`{name}` is not a subclass of `{match['base']}`{fault.at}{_written(parser, name)}.{twin}"


def _required(fault: Fault, match: re.Match[str], _: ArgumentParser) -> str:
    names = [name.removeprefix("fit.") for name in match["names"].split(", ")]  # the command is no option
    return f"An argument is missing{fault.at}: {', '.join(f'`{name}`' for name in names)}."


def _wrong_choice(_: Fault, match: re.Match[str], __: ArgumentParser) -> str:
    names = re.findall(r"\w+", match["names"])
    return f"`{match['name']}` is none of {', '.join(names)}.{near_matches(match['name'], names)}"


RULES: dict[re.Pattern[str], Callable[[Fault, re.Match[str], ArgumentParser], str]] = {
    re.compile(r'"<unicode string>", |^while (parsing|scanning) '): _broken_yaml,
    re.compile(r"Option '(?P<name>[^']+)' is not accepted(?! before)"): _unknown_argument,
    re.compile(r"Subcommand '(?P<subcommand>.*)' does not accept option '(?P<name>.+)'"): _unknown_option,
    re.compile(r"unrecognized arguments: -*(?P<name>[^\s=]+)"): _unknown_option,
    re.compile(r"(File does not exist|Path is not a file): '(?P<name>.+)'"): _missing_file,
    re.compile(r'Unable to load config "(?P<name>.+)"|^Unexpected config:'): _no_arguments,
    re.compile(r"^Expected an? (?P<expected>.+)\. Got value: (?P<value>.+)"): _wrong_value,
    re.compile(r"Expected a dot import path string: (?P<name>.+)"): _unknown_class,
    re.compile(r"Unexpected import path format: (?P<name>.+)"): _unknown_class,
    re.compile(r"module '.*' has no attribute '(?P<name>.+)'"): _unknown_class,
    re.compile(r"No module named '(?P<module>[^']+)'"): _unknown_class,
    re.compile(r"Importing '(?P<name>[\w.]+)' is not allowed"): _denied,
    re.compile(r"Import path (?:(?P<name>\S+) )?does not correspond to a subclass of (?P<base>\w+)"): _wrong_kind,
    re.compile(r"the following arguments are required: (?P<names>.+)"): _required,
    re.compile(r"invalid choice: '(?P<name>[^']+)' \(choose from (?P<names>[^)]+)\)"): _wrong_choice,
}


# ------------------------------------------------------------ candidates for near matches
def _types(listed: str) -> str:
    """Return 'int or None' for `<class 'int'>, <class 'NoneType'>`."""
    short = re.sub(r"<class '([^']*)'>", r"\1", listed).replace("NoneType", "None")
    names = re.split(r", (?![^\[]*\])", re.sub(r"(?:\w+\.)+(\w+)", r"\1", short))
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _files(folder: Path) -> list[str]:
    with suppress(OSError):
        return [file.name for file in folder.iterdir()]
    return []


def _parameters(class_path: str) -> list[str]:
    """Return the parameters of a class or function, including those that it passes to a parent by `**kwargs`."""
    named, parser = imported(class_path), ArgumentParser(exit_on_error=False)
    with suppress(Exception):  # a signature that cannot be read may raise anything; then there are no near matches
        add = parser.add_class_arguments if isinstance(named, type) else parser.add_function_arguments
        return list(add(named, fail_untyped=False))
    return []


def _class_names(expected: str | None = None) -> set[str]:
    """Return the names of all imported classes that a config may name: of the types in `expected`, or of any."""

    def below(base: type) -> Iterator[str]:
        subclasses: list[type] = base.__subclasses__()
        for subclass in subclasses:
            yield subclass.__name__
            yield from below(subclass)

    bases = [base for base in _NAMED if expected is None or f".{base.__name__}'" in expected]
    return {name for base in bases for name in below(base) if not name.startswith("_")}
