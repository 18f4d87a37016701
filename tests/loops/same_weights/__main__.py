"""One of several processes, with a folder as its argument: it does the training of every strategy in every loop."""

import os
import sys
import warnings
from pathlib import Path

import torch

from tests.loops.same_weights.cells import by_a_rank
from tests.loops.same_weights.task import STRATEGIES, Job

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    folder, rank, world = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    runs = [by_a_rank(Job(strategy, folder, rank=rank, world=world)) for strategy in STRATEGIES.values()]
    torch.save(runs, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
