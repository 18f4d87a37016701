"""The command `sparsegrad export --ckpt_path CHECKPOINT`, with `--output FOLDER` or `--delta FILE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import get_console

from lightning_sparsegrad.cli.parser import SparseGradArgumentParser
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.export._bits import name_of
from lightning_sparsegrad.export.checkpoint import ExportedDelta, export_checkpoint, export_delta
from lightning_sparsegrad.untrusted._terminal import shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PIPELINES = {
    "ForSequenceClassification": 'transformers.pipeline("text-classification", "{}", truncation=True)',
    "ForTokenClassification": 'transformers.pipeline("token-classification", "{}", aggregation_strategy="first")',
}
_CLASS = 'transformers.{}.from_pretrained("{}")'  # version 5 has no pipeline for question answering
_BASE = 'load_delta(transformers.{}.from_pretrained("{}", dtype="{}"{}), "{}")'


def main(args: list[str]) -> None:
    """Run the command.

    Args:
        args: The arguments after `export`.

    Raises:
        ConfigurationError: If the checkpoint cannot be exported.
    """
    parser = SparseGradArgumentParser(
        prog="sparsegrad export",
        description="Write a checkpoint as a folder that `transformers` reads, or what it changes in its base model.",
    )
    parser.add_function_arguments(_export, as_group=False)
    try:
        given = parser.parse_args(args)
    except ValueError as error:  # text that YAML cannot contain
        raise ConfigurationError(str(error)) from error
    line = _export(**given.as_dict())
    get_console().print(shown(line), markup=False, highlight=False, soft_wrap=True)


def _export(
    ckpt_path: str,
    *,
    output: str | None = None,
    delta: str | None = None,
    tokenizer: str | None = None,
    model_name_or_path: str | None = None,
) -> str:
    """Export a checkpoint, and return how to load what was written.

    Args:
        ckpt_path: The checkpoint of a task of this library.
        output: The folder to write, new or empty.
        delta: The file to write in place of a folder: only what has changed in the base model, for
            `load_delta` of this library.
        tokenizer: The tokenizer, if it has moved since the run: hub id, local folder or `package:`. Not for `delta`.
        model_name_or_path: The base model, if it has moved since the run. Only `delta` and checkpoints of release 0.1
            need it.
    """
    if output is not None and delta is None:
        model = export_checkpoint(ckpt_path, output, tokenizer=tokenizer, model_name_or_path=model_name_or_path)
        return _about_folder(model, output)
    if delta is None or output is not None:
        given = "none" if delta is None else f"`output = {output}` and `delta = {delta}`"
        raise ConfigurationError(f"One of the parameters `output` and `delta` should be given. Found {given}.")
    if tokenizer is not None:
        raise ConfigurationError(
            f"Parameter `tokenizer` should be given with `output` only, as a delta has none. "
            f"Found `tokenizer = {tokenizer}`."
        )
    return _about_delta(export_delta(ckpt_path, delta, model_name_or_path=model_name_or_path), delta)


def _about_folder(model: PreTrainedModel, folder: str) -> str:
    name = type(model).__name__
    line = next((each.format(folder) for ending, each in _PIPELINES.items() if name.endswith(ending)), None)
    return f"`{folder}` has the model and its tokenizer. Load them with {line or _CLASS.format(name, folder)}"


def _about_delta(exported: ExportedDelta, path: str) -> str:
    model, size, name = exported.model, exported.size, type(exported.model).__name__
    labels = f", num_labels={model.config.num_labels}" if "Classification" in name else ""
    line = _BASE.format(name, exported.base, name_of(model.dtype), labels, path)
    return (
        f"`{path}` has {size.tensors} of {size.of_tensors} tensors, {size.entries:,} of {size.of_entries:,} entries, "
        f"{size.size / 1e6:,.2f} of {size.of_size / 1e6:,.2f} MB. Load it with {line}"
    )
