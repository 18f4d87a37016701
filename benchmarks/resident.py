"""The extra resident memory of a strategy at its peak, measured without sampling in a separate process.

The gradients are made without a backward pass, whose released memory would hide later allocations. Released memory is
returned to the system, and the high-water mark of the process is reset before `apply_` and read after it.
"""

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.models import MINILM, SMALL, make_case
from benchmarks.peak import measure_apply
from benchmarks.strategies import make_strategies

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def can_measure(device: torch.device) -> bool:
    """Return whether the system has a high-water mark that can be reset, as Linux has for host memory."""
    return device.type == "cpu" and _RESET.exists()


def resident_bytes(name: str) -> int:
    """Return the extra bytes of a strategy on the full model, by running this module as a program."""
    done = subprocess.run(  # noqa: S603  # this module
        [sys.executable, "-m", "benchmarks.resident", name], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def grown(call: Callable[[], object]) -> int:
    """Return the bytes by which the high-water mark exceeds the initial resident size during a call."""
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")
    before = _read("VmRSS")
    call()
    return _read("VmHWM") - before


def _read(key: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return 1024 * int(lines[key].split()[0])


def main() -> None:
    """Print the extra bytes of the strategy that the command line names."""
    name, device = sys.argv[1], torch.device("cpu")
    extra = 0
    for size in (SMALL, MINILM):  # the small one loads code on first use
        model, thresholds = make_case(size, device)
        transform = make_strategies(thresholds, fused=True)[name]
        extra = measure_apply(model, transform, device, grown)
    sys.stdout.write(f"{extra}\n")


if __name__ == "__main__":
    main()
