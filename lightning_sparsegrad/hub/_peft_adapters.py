"""PEFT adapters: small trainable weights on top of a frozen base model."""

import json
from pathlib import Path

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.hub._names import resolve_source

INSTALL = "pip install lightning-sparsegrad[peft]"
_CONFIG = "config.json"
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")


def find_adapter(source: str, *, offline: bool) -> Path | None:
    """Return the `adapter_config.json` of an adapter; `None` for a whole model or a source that does not exist.

    Args:
        source: Hub id or local folder.
        offline: Whether to read only local files.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    path = find_adapter_config_file(source, local_files_only=offline)
    return Path(path) if path else None


def base_of(adapter: Path) -> str:
    """Return the hub id or folder of an adapter's base model; its own folder if that holds a whole model as well.

    Args:
        adapter: The adapter's `adapter_config.json`.

    Raises:
        ConfigurationError: If the file names no base model.
    """
    if (adapter.parent / _CONFIG).is_file():
        return str(adapter.parent)
    try:
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ConfigurationError(f"`{adapter}` should be a JSON object. Found: {error}") from error
    if not isinstance(base, str) or not base:
        raise ConfigurationError(
            f"`base_model_name_or_path` in `{adapter}` should name the base model of the adapter. Found `{base}`."
        )
    return resolve_source(base)


def tokenizer_source(source: str) -> str:
    """Return the source of a model's tokenizer; for an adapter without one, its base model."""
    folder = Path(source)
    has_own = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    adapter = find_adapter(source, offline=True) if folder.is_dir() and not has_own else None
    return source if adapter is None else base_of(adapter)
