"""Notices of other libraries that a user of the command line can do nothing about, left out of its log."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from typing_extensions import override

_PYTORCH = "lightning.pytorch"

# message, category, module; each with why nobody can act on it
_WARNINGS: tuple[tuple[str, type[Warning], str], ...] = (
    # Lightning 2.6 reads pytrees in a way that torch 2.13 deprecated
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning, rf"{_PYTORCH}\.utilities\._pytree"),
    # an offer of another logger: the CSV that is written is documented
    (r"Starting from v1\.9\.0, `tensorboardX` has been removed", UserWarning, rf"{_PYTORCH}\.trainer\.connectors\."),
    # a run writes into a folder of its own, also one that resumes another
    (r"The dirpath has changed from ", UserWarning, rf"{_PYTORCH}\.callbacks\.model_checkpoint"),
)
# logger, beginning of the message
_RECORDS = (
    (f"{_PYTORCH}.utilities.rank_zero", r"💡 Tip: "),  # an advertisement
    (f"{_PYTORCH}.utilities.rank_zero", r"[GT]PU available: "),  # Lightning warns of one that is left unused
    (f"{_PYTORCH}.utilities.rank_zero", r"Loading `train_dataloader` to estimate"),  # a step on Lightning's way
)
# transformers names what a checkpoint of ours is about to fill
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
    """Leave out notices that ask for nothing; filters of the user, as with `-W`, count before these.

    Args:
        arguments: Those of the command. With a checkpoint, weights that a model lacks are about to be restored.
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
