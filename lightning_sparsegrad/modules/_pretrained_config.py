"""The stored configuration of a pretrained model, checked before the model is built."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.hub._network import STRANGERS

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")  # models may map them to other names
_MOST_LAYERS = 10_000


def stored_config(source: str, *, offline: bool) -> Any:
    """Return the configuration of a whole model; `None` if it cannot be read, which loading the model then reports.

    Args:
        source: Hub id or local folder.
        offline: Whether to read only local files.

    Raises:
        ConfigurationError: If a size is not positive or a number is not finite: transformers would still build a model,
            but a useless one.
    """
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(source, local_files_only=offline, **STRANGERS)
        text = config.get_text_config()
    except Exception:
        return None
    for name in _SIZES:
        value = getattr(text, name, None)
        if not isinstance(value, int):
            continue
        if value < 1 or (name == "num_hidden_layers" and value > _MOST_LAYERS):
            allowed = "positive" if value < 1 else f"at most {_MOST_LAYERS}"
            raise ConfigurationError(f"`{name}` in the configuration of `{source}` should be {allowed}. Found {value}.")
    for name, value in _numbers(text.to_dict()):
        if not isfinite(value):
            raise ConfigurationError(f"`{name}` in the configuration of `{source}` should be finite. Found {value}.")
    return config


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in values.items() if isinstance(value, float))
