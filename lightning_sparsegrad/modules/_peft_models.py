"""PEFT adapters on their base models, ready for training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_sparsegrad.errors import ConfigurationError, reason_of
from lightning_sparsegrad.hub._network import STRANGERS, how_without, is_unreachable
from lightning_sparsegrad.hub._peft_adapters import INSTALL, base_of
from lightning_sparsegrad.modules._padding import padding_options
from lightning_sparsegrad.modules._pretrained_config import stored_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# PEFT's names of tasks whose adapters hold a head: the head of one would be taken for that of another
_TASKS = {
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
}
_PEFT_PREFIX = "base_model.model."  # prefix of names in an adapter's file
_WHOLE_MODEL = {"subfolder": ".none"}  # keeps transformers from adding the adapter of the same folder, frozen
_MAX_REASON = 300  # characters


def load_adapted(auto_model: Any, source: str, adapter: Path, options: Mapping[str, Any]) -> PreTrainedModel:
    """Load a base model and add an adapter to it.

    The adapter trains, with the modules saved in it. A head that neither the adapter nor the base model has trains as
    well, and becomes part of the adapter. `save_pretrained` of the model writes the adapter.

    `PreTrainedModel.load_adapter` is not used: it loses the magnitudes of DoRA (transformers 5.23, peft 0.21).

    Args:
        auto_model: The class of `transformers` that loads the base model.
        source: Hub id or local folder of the adapter.
        adapter: Its `adapter_config.json`.
        options: Options to load the base model with.

    Raises:
        ConfigurationError: If PEFT is not installed, the base model cannot be loaded, or the adapter does not fit it.
    """
    try:
        peft, layers = import_module("peft"), import_module("peft.tuners.tuners_utils")
    except ImportError as error:
        raise ConfigurationError(
            f"Parameter `model_name_or_path` should name a whole model if PEFT is not installed (`{INSTALL}`). "
            f"Found `{source}`, which is an adapter, and no `{error.name}`."
        ) from error
    base = base_of(adapter)
    model, report = _load_base(auto_model, base, adapter, options)
    try:
        settings = peft.PeftConfig.from_pretrained(str(adapter.parent))
        _check_task(auto_model, source, settings.task_type)
        new = _new_modules(model, report["missing_keys"], settings)
        if new:
            settings.modules_to_save = [*(settings.modules_to_save or []), *new]
        weights = dict(_named_as_in(model, peft.load_peft_weights(_weights_of(adapter, source), device="cpu")))
        weights |= {f"{path}.{name}": value for path, state in new.items() for name, value in state.items()}
        stored_base, settings.inference_mode = settings.base_model_name_or_path, False
        model.add_adapter(settings)
        settings.base_model_name_or_path = stored_base  # not the resolved path
        loaded = peft.set_peft_model_state_dict(model, weights)
        layers.cast_adapter_dtype(model, "default")  # float32, as PEFT does on a base in half precision
    except ConfigurationError:
        raise
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError) as error:
        reason = f"no weights for {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        labels = f" for `num_labels = {options['num_labels']}`" if "num_labels" in options else ""
        raise ConfigurationError(
            f"Parameter `model_name_or_path` should name an adapter that fits its base model, `{base}`{labels}. "
            f"Found `{source}`: {' '.join(reason.split())[:_MAX_REASON]}"
        ) from error
    _check_loaded(model, source, loaded)
    return model


def _load_base(
    auto_model: Any, base: str, adapter: Path, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    offline = is_unreachable(base, "model")
    options = {**options, **padding_options(stored_config(base, offline=offline)), **STRANGERS}
    looked_for = {"local_files_only": offline} | (_WHOLE_MODEL if Path(base) == adapter.parent else {})
    try:
        model, report = auto_model.from_pretrained(
            base, local_files_only=offline, adapter_kwargs=looked_for, output_loading_info=True, **options
        )
    except Exception as error:  # broken files may raise anything
        raise ConfigurationError(
            f"`base_model_name_or_path` in `{adapter}` should be a reachable hub id, or a local folder, of the model "
            f"that the adapter was trained on. Found `{base}`: {reason_of(error)}"
            f"{how_without(base, 'model')}"
        ) from error
    return model, report


def _check_task(auto_model: Any, source: str, task: str | None) -> None:
    wanted = _TASKS.get(auto_model.__name__)
    if task in _TASKS.values() and task != wanted:
        raise ConfigurationError(
            f"Parameter `model_name_or_path` should name an adapter for {wanted or 'this task'}, or one without a "
            f"head. Found `{source}`, which was trained for {task}: name its base model to train a new one."
        )


def _new_modules(model: nn.Module, missing: Iterable[str], settings: Any) -> dict[str, dict[str, Tensor]]:
    """Return the path and the state of each module that neither the base model nor the adapter has."""
    saved = [f".{name}." for name in getattr(settings, "modules_to_save", None) or ()]
    parameters = dict(model.named_parameters())
    paths = {name.rpartition(".")[0] for name in missing if name in parameters} - {""}
    left = [path for path in sorted(paths) if not any(name in f".{path}." for name in saved)]
    return {path: dict(model.get_submodule(path).state_dict()) for path in left}


def _named_as_in(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of an adapter under the model's names, also if it was made for the model without a head."""
    for stored, weight in weights.items():
        name = stored.removeprefix(_PEFT_PREFIX)
        first = name.partition(".")[0]
        inside = not hasattr(model, first) and hasattr(model.base_model, first)
        yield f"{model.base_model_prefix}.{name}" if inside else name, weight


def _weights_of(adapter: Path, source: str) -> str:
    """Return the path of an adapter's weights, which are beside its settings or on the hub."""
    if any(adapter.parent.glob("adapter_model.*")):
        return str(adapter.parent)
    if Path(source).is_dir():
        raise ConfigurationError(
            f"`{source}` should hold `adapter_model.safetensors`, or no `adapter_config.json` if it is a whole model. "
            f"Found an adapter's settings without its weights."
        )
    return source


def _check_loaded(model: nn.Module, source: str, loaded: Any) -> None:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if missing := sorted(trained.intersection(loaded.missing_keys)):
        raise ConfigurationError(
            f"Adapter `{source}` should hold all weights that it trains. Found {len(missing)} missing, `{missing[0]}` "
            f"first."
        )
    if unused := sorted(loaded.unexpected_keys):
        rank_zero_warn(
            f"{len(unused)} tensors of adapter `{source}` do not belong to `{type(model).__name__}` and are ignored, "
            f"`{unused[0]}` first."
        )
