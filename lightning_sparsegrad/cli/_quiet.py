"""Messages of other libraries that no user can act on, removed from the log of the command line."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from typing_extensions import override

_PYTORCH = "lightning.pytorch"

# message, category, module; each with the reason why nobody can act on it
_WARNINGS: tuple[tuple[str, type[Warning], str], ...] = (
    # Lightning 2.6 reads pytrees in a way that torch 2.13 deprecated
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning, rf"{_PYTORCH}\.utilities\._pytree"),
    # suggests another logger; CSV is the documented default
    (r"Starting from v1\.9\.0, `tensorboardX` has been removed", UserWarning, rf"{_PYTORCH}\.trainer\.connectors\."),
    # every run writes into a new folder, also a resumed one
    (r"The dirpath has changed from ", UserWarning, rf"{_PYTORCH}\.callbacks\.model_checkpoint"),
)
# logger, start of the message
_RECORDS = (
    (f"{_PYTORCH}.utilities.rank_zero", r"💡 Tip: "),  # an advertisement
    (f"{_PYTORCH}.utilities.rank_zero", r"[GT]PU available: "),  # Lightning warns of unused ones anyway
    (f"{_PYTORCH}.utilities.rank_zero", r"Loading `train_dataloader` to estimate"),  # progress of Lightning's set-up
)
# transformers lists weights that our checkpoint is about to restore
_REPORT = ("transformers.modeling_utils", r"(?s).*LOAD REPORT")


class _LeftOut(logging.Filter):
    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = re.compile(pattern)

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        return not self._pattern.match(record.getMessage())


@contextmanager
def quiet(arguments: Sequence[str]) -> Iterator[None]:
    """Suppress messages that no user can act on; the user's own filters, such as `-W`, take precedence.

    Args:
        arguments: The arguments of the command. With a checkpoint, reports of missing weights are suppressed as well,
            since the checkpoint restores them.
    """
    records = list(_RECORDS)
    if any(argument.startswith("--ckpt_path") for argument in arguments):
        records.append(_REPORT)
    filters = [(logging.getLogger(name), _LeftOut(pattern)) for name, pattern in records]
    with warnings.catch_warnings():
        for message, category, module in _WARNINGS:
            warnings.filterwarnings("ignore", message, category, module, append=True)
        for logger, left_out in filters:
            logger.addFilter(left_out)
        try:
            yield
        finally:
            for logger, left_out in filters:
                logger.removeFilter(left_out)
