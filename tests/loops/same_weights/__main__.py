"""One of several processes that train the same model by all loops; see `tests.launch`."""

import os
import sys
import warnings
from pathlib import Path

import torch

from .cells import by_rank

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", "Gradients that are dropped whole are computed nevertheless")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    folder, rank, world = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.save(by_rank(folder, rank, world), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
