"""States that, beside the global random states, decide on the order of a loader's data: of generators and its parts."""

from typing import Any

from torch.utils.data import Dataset

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._lightning import WRAPPED_SAMPLER
from lightning_sparsegrad.resume._randomness import GENERATORS, generator_state, set_generator_state

_OF_LOADERS, _OF_DATASETS = ("sampler", "batch_sampler", "dataset", WRAPPED_SAMPLER), ("dataset", WRAPPED_SAMPLER)


def source_states(loader: Any) -> dict[str, Any]:
    """Return the states of a loader's generators, and of its samplers and dataset where they have a `state_dict`."""
    return {
        name: generator_state(source) if isinstance(source, GENERATORS) else source.state_dict()
        for name, source in _sources(loader).items()
    }


def set_source_states(loader: Any, states: dict[str, Any]) -> None:
    """Restore what `source_states` returned.

    Raises:
        ConfigurationError: If the loader has not what the states are of, or more.
    """
    sources = _sources(loader)
    if sources.keys() != states.keys():
        raise ConfigurationError(
            f"A loader should have the generators and states that it had in the run it goes on from: "
            f"{_listed(states)}. Found {_listed(sources)}."
        )
    for name, source in sources.items():
        if isinstance(source, GENERATORS):
            set_generator_state(source, states[name])
        else:
            source.load_state_dict(states[name])


def draws_while_loading(loader: Any) -> bool:
    """Return whether loading a sample may change what is known of the dataset."""
    return any(name.startswith("dataset") for name in _sources(loader))


def _sources(loader: Any) -> dict[str, Any]:
    sources: dict[str, Any] = {}
    for path, part in _parts(loader).items():
        for name, value in getattr(part, "__dict__", {}).items():
            if isinstance(value, GENERATORS):
                sources[f"{path}.{name}".lstrip(".")] = value
        if part is not loader and hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
            sources[path] = part
    return sources


def _parts(loader: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    waiting = [("", loader)]
    while waiting:
        path, part = waiting.pop(0)
        if any(part is known for known in parts.values()):
            continue
        parts[path] = part
        names = _OF_DATASETS if isinstance(part, Dataset) else _OF_LOADERS
        inner = {name: getattr(part, name, None) for name in names}
        waiting += [(f"{path}.{name}".lstrip("."), value) for name, value in inner.items() if value is not None]
    return parts


def _listed(names: dict[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
