"""One of several processes, started by `torch.distributed.run` with a folder as its argument: it runs every case."""

import os
import sys
import warnings
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh

from tests.matrix import test_ddp, test_frozen, test_fsdp2, test_fsdp2_fits
from tests.matrix.ranks import CASES, cases_on

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    folder, world = Path(sys.argv[1]), int(os.environ["WORLD_SIZE"])
    adding = {test_ddp.__name__, test_frozen.__name__, test_fsdp2.__name__, test_fsdp2_fits.__name__}  # the cases
    assert adding <= {*sys.modules}
    mesh = init_device_mesh("cpu", (world,))
    for name in cases_on(world):
        torch.save(CASES[name](mesh, folder), folder / f"{name} {os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()
