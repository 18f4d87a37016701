"""`sparsegrad calibrate` of a pretrained model: the mask of a plain loop over the rows that a fit would see first."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DistributedSampler

from lightning_sparsegrad import NamedParameters
from lightning_sparsegrad.calibrate._command import CalibrateCLI
from lightning_sparsegrad.transforms.masks._mask_file import read_mask_file
from tests.explain.test_command import QUICKSTART, overlay

pytestmark = pytest.mark.long

FILE = "mask.safetensors"
SAMPLES = 12


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in a folder, and free what a run leaves: a Trainer is a cycle."""
    monkeypatch.chdir(tmp_path)
    yield
    gc.collect()


def test_a_mask_of_a_task_is_that_of_a_plain_loop() -> None:
    arguments = [*QUICKSTART, *overlay("sparse_mask"), "--trainer.accelerator=cpu", f"--samples={SAMPLES}"]
    cli = CalibrateCLI(args=["fit", *arguments, f"--output={FILE}"], save_config_callback=None)
    rows = cli.datamodule.dataset("train")
    sums = {name: torch.zeros_like(tensor) for name, tensor in cli.model.named_parameters()}
    cli.model.eval()
    for index in [*DistributedSampler(rows, num_replicas=1, rank=0, shuffle=True, seed=0)][:SAMPLES]:
        cli.model.zero_grad()
        batch = cli.datamodule.encoding.collate(cli.datamodule.tokens, [rows[index]], None)
        cli.model(batch).loss.backward()
        for name, tensor in cli.model.named_parameters():
            sums[name] += 0 if tensor.grad is None else tensor.grad**2
    names = [name for name in sums if "classifier" not in name and "pooler" not in name]
    flat = torch.cat([sums[name].flatten() for name in names])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.argsort(descending=True, stable=True)[: round(0.01 * len(flat))]] = True
    file = read_mask_file(FILE)
    masks = dict(file.on(NamedParameters(cli.model)))
    assert masks.keys() == set(names)
    assert torch.equal(torch.cat([masks[name].flatten() for name in names]), chosen)
