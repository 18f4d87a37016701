"""The help of the whole command line, which lists the commands without importing them."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from textwrap import fill

from lightning_sparsegrad.errors import near_matches
from lightning_sparsegrad.files._shipped import shipped_configs

COMMANDS = {
    "fit": "Train a model, with the gradients masked or clipped by a strategy.",
    "validate": "Evaluate a model on the validation set.",
    "test": "Evaluate a model on the test set.",
    "predict": "Write the predictions of a model.",
    "explain": "Say what a strategy will do to a model, before it trains.",
    "calibrate": "Choose which entries of a model train, by gradients of single samples, and write a mask file.",
    "study": "Compare strategies over many runs of `fit`.",
    "export": "Write a checkpoint as a folder for `transformers`, or as a delta to its base model.",
}
_EXAMPLES = """\
examples:
  sparsegrad fit --config quickstart --config gradient/cgnc
  sparsegrad fit --config task.yaml --config gradient/grad_drop --model.gradient_transform.rate=0.4
  sparsegrad fit --config task.yaml --print_config
  sparsegrad fit --help

configs of the package, which are named like files:
"""


def fault_in(arguments: Sequence[str]) -> str:
    """Return an error sentence if the first argument is neither a command nor an option; else an empty string."""
    if arguments and (arguments[0] in COMMANDS or arguments[0].startswith("-")):
        return ""
    name = arguments[0] if arguments else ""
    return f"Commands are {', '.join(COMMANDS)}. Found {f'`{name}`' if name else 'none'}.{near_matches(name, COMMANDS)}"


def _configs() -> str:
    """Return the names of the configs that come with the package, a paragraph for each folder."""
    names = list(shipped_configs())
    folders = dict.fromkeys(name.rpartition("/")[0] for name in names)
    lists = (", ".join(name for name in names if name.rpartition("/")[0] == folder) for folder in sorted(folders))
    return "\n".join(
        fill(each, 100, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False) for each in lists
    )


def print_overview() -> None:
    """Print the help of the whole command line."""
    parser = ArgumentParser(
        prog="sparsegrad",
        description="Fine-tune pretrained transformers with masked and clipped gradients.",
        epilog=_EXAMPLES + _configs(),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", help="A YAML file of arguments, each under the name of its command.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    parser.print_help()
