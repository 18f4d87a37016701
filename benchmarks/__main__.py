"""Run all benchmarks, or those named by `--only`."""

from collections.abc import Sequence

from benchmarks import growth, host, kernels, learning, memory, monitor, step
from benchmarks.options import make_options, make_parser

BENCHMARKS = {
    "step": step.run,
    "kernels": kernels.run,
    "host": host.run,
    "growth": growth.run,
    "memory": memory.run,
    "monitor": monitor.run,
    "learning": learning.run,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run benchmarks one after the other from the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="all by default")
    read = parser.parse_args(arguments)
    options = make_options(read.quick, read.repeats, read.output, read.device)
    for name in read.only:
        BENCHMARKS[name](options)


if __name__ == "__main__":
    main()
