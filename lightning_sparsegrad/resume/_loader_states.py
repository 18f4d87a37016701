"""The states of generators, samplers and datasets, which with the global random states decide the data order."""

from typing import Any

from torch.utils.data import Dataset

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._lightning import WRAPPED_SAMPLER
from lightning_sparsegrad.resume._randomness import GENERATORS, generator_state, set_generator_state

_OF_LOADERS, _OF_DATASETS = ("sampler", "batch_sampler", "dataset", WRAPPED_SAMPLER), ("dataset", WRAPPED_SAMPLER)


def source_states(loader: Any) -> dict[str, Any]:
    """Return the states of a loader's generators, and of its samplers and dataset if they have a `state_dict`."""
    return {
        name: generator_state(source) if isinstance(source, GENERATORS) else source.state_dict()
        for name, source in _sources(loader).items()
    }


def set_source_states(loader: Any, states: dict[str, Any]) -> None:
    """Restore what `source_states` returned.

    Raises:
        ConfigurationError: If the loader has other generators, samplers or datasets than the states.
    """
    sources = _sources(loader)
    if sources.keys() != states.keys():
        raise ConfigurationError(
            f"A loader should have the generators and states of the run it resumes: {_listed(states)}. "
            f"Found {_listed(sources)}."
        )
    for name, source in sources.items():
        if isinstance(source, GENERATORS):
            set_generator_state(source, states[name])
        else:
            source.load_state_dict(states[name])


def draws_while_loading(loader: Any) -> bool:
    """Return whether loading a sample may change a state of the dataset."""
    return any(name.startswith("dataset") for name in _sources(loader))


def _sources(loader: Any) -> dict[str, Any]:
    sources: dict[str, Any] = {}
    for path, member in _members(loader).items():
        for name, value in getattr(member, "__dict__", {}).items():
            if isinstance(value, GENERATORS):
                sources[f"{path}.{name}".lstrip(".")] = value
        if member is not loader and hasattr(member, "state_dict") and hasattr(member, "load_state_dict"):
            sources[path] = member
    return sources


def _members(loader: Any) -> dict[str, Any]:
    members: dict[str, Any] = {}
    waiting = [("", loader)]
    while waiting:
        path, member = waiting.pop(0)
        if any(member is known for known in members.values()):
            continue
        members[path] = member
        names = _OF_DATASETS if isinstance(member, Dataset) else _OF_LOADERS
        inner = {name: getattr(member, name, None) for name in names}
        waiting += [(f"{path}.{name}".lstrip("."), value) for name, value in inner.items() if value is not None]
    return members


def _listed(names: dict[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
