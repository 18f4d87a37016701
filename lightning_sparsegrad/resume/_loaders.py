"""The order of the training data: the position of a loader in its epoch, and its restoration."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.fabric.utilities.data import sized_len
from torch.utils.data import DataLoader

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.resume._loader_states import draws_while_loading, set_source_states, source_states
from lightning_sparsegrad.resume._randomness import random_states, set_random_states
from lightning_sparsegrad.resume._torch import SharesWorkers, reads_map_itself, skip_batch

_CPU = torch.device("cpu")  # loaders draw on the CPU


class TrackedLoader(SharesWorkers):
    """A loader that records the random states at the start of its pass and the number of batches it has yielded.

    This is its state: a new loader restores these random states, begins its pass, and skips as many batches. The loader
    therefore need not be of a special class, and everything that decides the order at the start of a pass is covered: a
    generator (of torch, NumPy or Python) of the loader, its sampler or its dataset, a `state_dict` of the last two, an
    epoch set by `set_epoch`, and the global random states. For a map-style dataset in the main process with neither a
    generator nor a `state_dict`, batches are skipped without being loaded.

    Args:
        loader: A DataLoader, or any iterable that can be read again.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._start: dict[str, Any] | None = None  # of the current pass; `None` if it has not yielded a batch
        self._batches = 0
        self._resume_state: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "loader" or name.startswith("__"):  # read before it is set, for example by `copy`
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Begin a pass; nothing is drawn before its first batch, unless it resumes from a state."""
        state, self._resume_state = self._resume_state, None
        self._start, self._batches = None, 0
        if state is None or state["random"] is None:
            return self._pass(None)
        set_random_states(state["random"], _CPU)
        self._start = {name: value for name, value in state.items() if name != "batches"}
        self._batches = state["batches"]
        iterator = iter(self.loader)
        if not self._batches:  # draw the order with the first batch now: later the random states will differ
            return self._pass(chain(list(islice(iterator, 1)), iterator))
        _pass_over(iterator, self._batches, loading=draws_while_loading(self.loader))
        return self._pass(iterator)

    def _pass(self, iterator: Iterator[Any] | None) -> Iterator[Any]:
        if iterator is None:
            self._start = {"random": random_states(_CPU), "sources": source_states(self.loader), **self._shape()}
            iterator = iter(self.loader)
        for batch in iterator:
            self._batches += 1
            yield batch

    def position(self, *, ahead: int) -> dict[str, Any]:
        """Return the state, without the last `ahead` batches, which were yielded but not used yet."""
        if self._start is None:
            return self.rest()
        return {**self._start, "batches": self._batches - ahead}

    def rest(self) -> dict[str, Any]:
        """Return the state between two passes."""
        return {"random": None, "sources": source_states(self.loader), "batches": 0}

    def _shape(self) -> dict[str, int | None]:
        size = getattr(getattr(self.loader, "batch_sampler", self.loader), "batch_size", None)
        seed = getattr(getattr(self.loader, "sampler", None), "seed", None)  # of a DistributedSampler and the like
        seed = getattr(getattr(getattr(self.loader, "batch_sampler", None), "sampler", None), "seed", seed)
        return {
            "length": sized_len(self.loader),
            "batch_size": size if isinstance(size, int) else None,
            "seed": seed if isinstance(seed, int) else None,
        }

    # these two names show Lightning that a loader can resume
    def state_dict(self) -> dict[str, Any]:
        return self.position(ahead=0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume the next pass from a state.

        Raises:
            ConfigurationError: Within a pass, if the loader has another length, seed or batch size.
        """
        for name, now in self._shape().items() if state["random"] is not None else ():
            if now != state.get(name, now):  # the seed is not in checkpoints of 0.1
                raise ConfigurationError(
                    f"Parameter `{name}` of a training loader should be {state[name]} to resume within an epoch, as in "
                    f"the previous run. Found `{name} = {now}`."
                )
        set_source_states(self.loader, state["sources"])
        self._resume_state = state


def _pass_over(iterator: Iterator[Any], batches: int, *, loading: bool) -> None:
    pass_over = next if loading or not reads_map_itself(iterator) else skip_batch
    for passed in range(batches):
        try:
            pass_over(iterator)
        except StopIteration:
            # Lightning would take it for the end of training
            raise ConfigurationError(
                f"The training data should have at least the {batches} batches already used. Found {passed}."
            ) from None


@runtime_checkable
class Stateful(Protocol):
    """A loader that can resume from a state by itself."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> None: ...


def set_epoch(loader: Any, epoch: int) -> None:
    """Set the epoch of a loader's samplers, as Lightning does at the start of an epoch."""
    samplers = [getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)]
    for sampler in {id(sampler): sampler for sampler in samplers}.values():
        if callable(method := getattr(sampler, "set_epoch", None)):
            method(epoch)


def can_be_read_again(loader: Any) -> bool:
    """Return whether a loader can be iterated over a second time."""
    return isinstance(loader, DataLoader) or hasattr(loader, "__len__")
