"""The compilation time of the fused mask, in a fresh process with an empty cache.

Run as a program, it prints the seconds of its own first masked step; `compile_seconds` starts it.
"""

import os
import subprocess
import sys
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

ENTRIES = 1 << 20


def compile_seconds(device: torch.device) -> float:
    """Return the duration of the first call of the fused mask in seconds."""
    with TemporaryDirectory() as folder:
        done = subprocess.run(  # noqa: S603  # this module
            [sys.executable, "-m", "benchmarks.compiling", device.type],
            env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder},
            check=True,
            capture_output=True,
            text=True,
        )
    return float(done.stdout)


def main() -> None:
    """Print the seconds of the first call."""
    from lightning_sparsegrad.functional import mask_entries_

    tensor = torch.ones(ENTRIES, device=sys.argv[1])
    before = perf_counter()
    mask_entries_([tensor], [1], [0.5], fused=True)
    sys.stdout.write(f"{perf_counter() - before}\n")


if __name__ == "__main__":
    main()
