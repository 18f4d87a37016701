"""Benchmarks of the speed and memory of the strategies, against plain training and common alternatives.

- `python -m benchmarks.step`: one training step of a MiniLM-sized encoder, and the gradient change alone;
- `python -m benchmarks.kernels`: the kernels, against reading and writing every gradient once;
- `python -m benchmarks.host`: the time of the host in a window of 400 small tensors;
- `python -m benchmarks.growth`: cost by number of parameters and of tensors;
- `python -m benchmarks.memory`: extra peak memory;
- `python -m benchmarks.learning`: clips that learn their thresholds, against those whose thresholds are given;
- `python -m benchmarks`: all of them.

Each prints a table, and writes a JSON file and a plot to `benchmarks/results`. Targets are reported beside the ratios,
never asserted: a time depends on the machine.
"""

import os

# read when torch is loaded: silences its profiler, which counts memory and would log every start and end
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
