"""The code that the compiler writes for the mask's kernel: in vectors, from the first load to the store."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cases import cases

PROGRAM = """
import torch
from lightning_sparsegrad.functional import mask_entries_
for dtype in torch.float32, torch.bfloat16, torch.float64:
    mask_entries_([torch.ones(1 << 15, dtype=dtype)], [1], [0.5], fused=True)
"""
KERNEL = re.compile(r'^extern "C"\s+void\s+kernel\(.*?^}', re.MULTILINE | re.DOTALL)
CAPABILITIES = {"AVX2": ["avx2"], "AVX512": ["avx2", "avx512"]}.get(torch.backends.cpu.get_cpu_capability())

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),  # a first compilation includes precompiling torch's headers
    pytest.mark.skipif(CAPABILITIES is None, reason="what is read is the code for x86"),
]


def kernels(capability: str, folder: Path) -> list[str]:
    """Return the C++ of the kernels that a process compiles with an empty cache, one for each dtype."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "TORCHINDUCTOR_CACHE_DIR": str(folder)}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True)
    return [code for path in folder.rglob("*.cpp") for code in KERNEL.findall(path.read_text())]


@cases("capability", CAPABILITIES or ["none"])
def test_the_kernel_computes_in_vectors(capability, tmp_path):
    codes = kernels(capability, tmp_path)
    assert len(codes) == 3
    for code in codes:
        assert "at::vec::Vectorized" in code
        assert not re.search(r"out_ptr\d+\[", code), "it stores one entry after the other"
        assert "std::array" not in code, "it loads one entry after the other"
        assert not re.search(r"<int32_t(,\d)?>::loadu\(", code), "a load of int32 goes through the stack on AVX2"
        assert not re.search(r"convert<int32_t,\d,float", code), "this conversion goes through the stack"
