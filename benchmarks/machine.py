"""The description of the machine of a measurement."""

import os
import platform
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import torch


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return processor, cores, versions, threads and dtype; where there is `lscpu`, what it says as well."""
    described = {
        "processor": _processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "device": device.type,
    }
    if device.type == "cuda":
        described["accelerator"] = torch.cuda.get_device_name(device)
    lscpu = which("lscpu")
    return described if lscpu is None else described | {"lscpu": _fields(lscpu)}


def _fields(lscpu: str) -> dict[str, str]:
    """Return what `lscpu` says: caches, cores, instruction sets; without the mitigations of known weaknesses."""
    command = subprocess.run([lscpu], capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"})  # noqa: S603  # it takes no input
    fields = (line.partition(":") for line in command.stdout.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields if not name.startswith("Vulnerability")}


def _processor() -> str:
    """Return the name of the processor, from a file on Linux and from `platform` elsewhere."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
