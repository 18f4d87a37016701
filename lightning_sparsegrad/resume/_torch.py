"""Private names of torch that a resume needs.

There are no public equivalents. Each name is checked against the installed version in `tests/private_names.py`; if one
is missing, the function that needs it raises an error that names the version. Nothing private is imported before it is
needed.
"""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from lightning_sparsegrad.errors import needs_private_names

LAST_RATES = "_last_lr"
"""The key of the learning rates in the state of a scheduler, as its `get_last_lr` returns them."""

_UNSAFE = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")

_resume = needs_private_names("torch", "a resume")


# ------------------------------------------------------------ loaders
@_resume
def reads_map_itself(iterator: Any) -> bool:
    """Return whether an iterator of a DataLoader reads a map-style dataset in this process, and can skip batches.

    Without it a resume loads all batches that it skips. pytorch#36650 (open) asks for a loader with a state.
    """
    from torch.utils.data.dataloader import _DatasetKind, _SingleProcessDataLoaderIter

    return isinstance(iterator, _SingleProcessDataLoaderIter) and iterator._dataset_kind == _DatasetKind.Map


def skip_batch(iterator: Any) -> None:
    """Draw the indices of a batch without loading it, from an iterator for which `reads_map_itself`: pytorch#36650."""
    iterator._next_index()


def lasting_workers(loader: Any) -> Any:
    """Return the iterator whose workers outlive an epoch (`persistent_workers`), or `None`.

    Without it a search of the tuner would leave them with other random states. No upstream issue.
    """
    return getattr(loader, "_iterator", None)


def set_lasting_workers(loader: Any, iterator: Any) -> None:
    """Make a loader continue with such an iterator; with `None`, start new workers."""
    loader._iterator = iterator


class SharesWorkers:
    """A loader that exposes the workers of its wrapped loader under torch's own name, so that Lightning can end them.

    Without it they would outlive an exception. No upstream issue.

    Attributes:
        loader: The wrapped loader.
    """

    loader: Any

    @property
    def _iterator(self) -> Any:
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self.loader._iterator = value


# ------------------------------------------------------------ the rest
@_resume
def set_last_rates(scheduler: LRScheduler, rates: Sequence[float | Tensor]) -> None:
    """Set what `get_last_lr` of a scheduler returns, before its next step. No upstream issue."""
    _ = scheduler._last_lr
    scheduler._last_lr = list(rates)


@_resume
def store_of_processes(prefix: str) -> Any:
    """Return the store through which the processes of a group find each other, with prefixed keys.

    A separate store would need a port. No upstream issue.
    """
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

    return PrefixStore(prefix, _get_default_store())


def refused_class(error: BaseException) -> str | None:
    """Return the class that `torch.load` refused to load, or `None` if an error has another cause.

    The class is only in the text; if torch changes the wording, a message repeats torch's own. No upstream issue.
    """
    unsafe = _UNSAFE.search(str(error))
    return unsafe[1] if unsafe else None
