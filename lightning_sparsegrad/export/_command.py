"""The command `sparsegrad export --ckpt_path CHECKPOINT --output FOLDER`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import get_console

from lightning_sparsegrad.cli.parser import SparseGradArgumentParser
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.export.checkpoint import export_checkpoint
from lightning_sparsegrad.untrusted._terminal import shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PIPELINES = {
    "ForSequenceClassification": 'transformers.pipeline("text-classification", "{}", truncation=True)',
    "ForTokenClassification": 'transformers.pipeline("token-classification", "{}", aggregation_strategy="first")',
}
_CLASS = 'transformers.{}.from_pretrained("{}")'  # version 5 has no pipeline for question answering


def main(args: list[str]) -> None:
    """Run the command.

    Args:
        args: The arguments after `export`.

    Raises:
        ConfigurationError: If the checkpoint cannot be exported.
    """
    parser = SparseGradArgumentParser(
        prog="sparsegrad export", description="Write a checkpoint as a folder that `transformers` reads."
    )
    parser.add_function_arguments(export_checkpoint, as_group=False)
    try:
        given = parser.parse_args(args)
    except ValueError as error:  # text that YAML cannot contain
        raise ConfigurationError(str(error)) from error
    model = export_checkpoint(**given.as_dict())
    get_console().print(shown(_how_to_read(model, given.output)), markup=False, highlight=False, soft_wrap=True)


def _how_to_read(model: PreTrainedModel, folder: str) -> str:
    name = type(model).__name__
    line = next((each.format(folder) for ending, each in _PIPELINES.items() if name.endswith(ending)), None)
    return f"`{folder}` has the model and its tokenizer. Load them with {line or _CLASS.format(name, folder)}"
