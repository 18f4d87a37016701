"""Data of a command that starts from a checkpoint: the classes it was trained on, and rows of another origin."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningCLI, _InstantiatorFn

from lightning_sparsegrad.data import TokenizedDataModule

_DESCRIPTIONS = {"data_files": ("splits",), "dataset": ("splits", "dataset_config", "revision")}  # by origin


class DataInstantiator(_InstantiatorFn):
    """Lightning's, which tells the data the classes of the checkpoint before a model asks for their number.

    Args:
        cli: The command line.
        key: Where the data stand in its config.
        trained_names: The names of the classes, empty for regression; `None` if they are the data's to tell.
    """

    def __init__(self, cli: LightningCLI, key: str, trained_names: list[str] | None) -> None:
        super().__init__(cli, key)
        self.trained_names = trained_names

    def __call__(
        self, class_type: type[Any], *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> Any:
        data = super().__call__(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
        if isinstance(data, TokenizedDataModule):
            data.trained_names = self.trained_names
        return data


def replace_origin(config: Namespace, stored: Mapping[str, Any]) -> None:
    """Take out the origin of the rows that a checkpoint stores, in place, where the user names one of the other kind.

    Args:
        config: What was parsed, with what the checkpoint stores as defaults.
        stored: What the checkpoint stores.
    """
    arguments, before = config.get("data.init_args"), (stored.get("data") or {}).get("init_args") or {}
    if not isinstance(arguments, Namespace) or not all(arguments.get(origin) for origin in _DESCRIPTIONS):
        return
    kept = [origin for origin in _DESCRIPTIONS if arguments[origin] == before.get(origin)]
    for name in (*kept, *_DESCRIPTIONS[kept[0]]) if len(kept) == 1 else ():
        if name in arguments and arguments[name] == before.get(name):
            arguments[name] = None


def about_moved(message: str, checkpoint: Any) -> str:
    """Say so if the pretrained model, which a command builds before it restores a checkpoint, is not where it was."""
    if not checkpoint or "`model_name_or_path`" not in message:
        return ""
    return (
        " The model is built from there, and its tokenizer, before the checkpoint is restored: "
        "`--model.model_name_or_path` names a folder that holds them."
    )
