import logging
import os
import warnings
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch

from .tasks import SEED

# what Lightning says about every tiny run here, and none of it is news
_EXPECTED = (
    r".*does not have many workers",
    r"You defined a `validation_step` but have no `val_dataloader`",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # its own, with torch 2.13; ends with lightning > 2.6.6
)


@pytest.fixture(autouse=True)
def run_of_its_own() -> Iterator[None]:
    """Give each test the seed `SEED` as `seed_everything` would, and leave the process as it was."""
    threads, logger = torch.get_num_threads(), logging.getLogger("lightning.pytorch")
    level = logger.level
    torch.set_num_threads(1)  # waiting for one another costs threads more than models this small do
    seeded = {"PL_GLOBAL_SEED": str(SEED), "PL_SEED_WORKERS": "0"}
    with patch.dict(os.environ, seeded), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(SEED)
        logger.setLevel(logging.WARNING)
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message)
        yield
    torch.set_num_threads(threads)
    logger.setLevel(level)
