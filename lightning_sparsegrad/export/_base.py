"""The base model of a checkpoint, as its run loaded it."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from lightning_sparsegrad.errors import ConfigurationError, reason_of
from lightning_sparsegrad.hub._names import resolve_source
from lightning_sparsegrad.hub._network import STRANGERS, how_without, is_unreachable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_base(model: PreTrainedModel, name: str) -> tuple[PreTrainedModel, set[str]]:
    """Load the weights of a base model into a second model like one that was trained from it.

    Args:
        model: The trained model.
        name: Hub id, local folder, or `package:<distribution>/<folder inside it>` of the base.

    Returns:
        The base model in the dtype of the trained one, and the names of the tensors that the base lacks or has in
        another shape: these are new, and differ each time.

    Raises:
        ConfigurationError: If there is no such base model, or it has nothing in common with the trained one.
    """
    source, kind = resolve_source(name), type(model)
    load: Any = kind.from_pretrained  # what it returns depends on the options
    offline = is_unreachable(source, "model")
    try:
        base, report = load(
            source,
            config=deepcopy(model.config),
            dtype=model.dtype,
            local_files_only=offline,
            adapter_kwargs={"local_files_only": offline},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **STRANGERS,
        )
    except Exception as error:  # broken files may raise anything
        raise ConfigurationError(
            f"Parameter `model_name_or_path` should name the base model that the checkpoint was trained from. Found "
            f"`model_name_or_path = {name}`: {reason_of(error)}{how_without(source, 'model')}"
        ) from error
    fresh = {*report["missing_keys"], *(key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])}
    if fresh.issuperset(dict(base.named_parameters())):
        raise ConfigurationError(
            f"Parameter `model_name_or_path` should name the base model that the checkpoint was trained from. Found "
            f"`model_name_or_path = {name}`, which has none of the weights of `{kind.__name__}`."
        )
    return base, fresh
