"""The order of the training data: where a loader stands in its epoch, and how a new one comes to stand there."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _DatasetKind, _SingleProcessDataLoaderIter

from lightning_sparsegrad.resume.randomness import random_states, set_random_states

_CPU = torch.device("cpu")  # where loaders draw


class TrackedLoader:
    """A loader that knows with which random states its pass over the data began, and how many batches it has given.

    That is its state: a new loader is given these random states, begins its pass, and passes over as many batches. So
    it need not be of a special class, and whatever decides on the order at the start of a pass is covered: a generator
    of the loader, its sampler or its dataset, a `state_dict` of the last two, an epoch set by `set_epoch`, and the
    global random states. Of a map-style dataset in the main process, batches are passed over without being loaded.

    Args:
        loader: A DataLoader, or any iterable that can be read again.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._start: dict[str, Any] | None = None  # of the pass at hand; `None` if it has given nothing
        self._batches = 0
        self._goes_on_from: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    @property
    def _iterator(self) -> Any:  # Lightning ends the workers of a DataLoader through it
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self.loader._iterator = value

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Begin a pass; nothing is drawn for it before its first batch, unless it goes on from a state."""
        state, self._goes_on_from = self._goes_on_from, None
        self._start, self._batches = None, 0
        if state is None or state["random"] is None:
            return self._pass(None)
        set_random_states(state["random"], _CPU)
        self._start = {"random": state["random"], "sources": state["sources"]}
        self._batches = state["batches"]
        return self._pass(_passed_over(iter(self.loader), self._batches))

    def _pass(self, iterator: Iterator[Any] | None) -> Iterator[Any]:
        if iterator is None:
            self._start = {"random": random_states(_CPU), "sources": source_states(self.loader)}
            iterator = iter(self.loader)
        for batch in iterator:
            self._batches += 1
            yield batch

    def position(self, *, ahead: int) -> dict[str, Any]:
        """Return the state, but for the batches that were given and not yet used."""
        if self._start is None:
            return self.rest()
        return {**self._start, "batches": self._batches - ahead}

    def rest(self) -> dict[str, Any]:
        """Return the state between two passes."""
        return {"random": None, "sources": source_states(self.loader), "batches": 0}

    # by these two names Lightning knows that a loader can go on
    def state_dict(self) -> dict[str, Any]:
        return self.position(ahead=0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next pass go on from a state."""
        set_source_states(self.loader, state["sources"])
        self._goes_on_from = state


def source_states(loader: Any) -> list[Any]:
    """Return the states of a loader's generators, and of its samplers and dataset where they have a `state_dict`."""
    states: list[Any] = []
    for part in _parts(loader):
        states += [generator.get_state() for generator in _generators(part)]
        if part is not loader and hasattr(part, "state_dict"):
            states.append(part.state_dict())
    return states


def set_source_states(loader: Any, states: list[Any]) -> None:
    """Restore what `source_states` returned."""
    remaining = iter(states)
    for part in _parts(loader):
        for generator in _generators(part):
            generator.set_state(next(remaining))
        if part is not loader and hasattr(part, "load_state_dict"):
            part.load_state_dict(next(remaining))


def _parts(loader: Any) -> list[Any]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    named = [getattr(loader, name, None) for name in ("sampler", "dataset")]
    parts = [loader, *named, batch_sampler, getattr(batch_sampler, "sampler", None)]
    return list({id(part): part for part in parts if part is not None}.values())


def _generators(part: Any) -> list[torch.Generator]:
    return [value for value in getattr(part, "__dict__", {}).values() if isinstance(value, torch.Generator)]


def _passed_over(iterator: Iterator[Any], batches: int) -> Iterator[Any]:
    unloaded = isinstance(iterator, _SingleProcessDataLoaderIter) and iterator._dataset_kind == _DatasetKind.Map
    for _ in range(batches):
        iterator._next_index() if unloaded else next(iterator)  # type: ignore[attr-defined]
    return iterator


def can_be_read_again(loader: Any) -> bool:
    """Return whether iterating over a loader a second time gives its batches a second time."""
    return isinstance(loader, DataLoader) or hasattr(loader, "__len__")
