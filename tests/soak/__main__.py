"""Train at random for some time, and hold every window to a slow reference engine."""

import sys
from argparse import ArgumentParser

import torch
from rich.console import Console

from tests.soak.configurations import draw_configuration
from tests.soak.fits import draw_fit
from tests.soak.soak import FIT_EVERY, soak


def main() -> int:
    """Return the exit status: 1 if anything failed."""
    parser = ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="time limit; may be a fraction")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    parser.add_argument("--only", type=int, metavar="N", help="the training of this index alone, as a failure names it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the models are tiny

    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    if arguments.only is None:
        summary = soak(arguments.seed, minutes=arguments.minutes, say=say)
    else:
        say(str(draw_configuration(arguments.seed, arguments.only)))
        if arguments.only % FIT_EVERY == 0:
            say(str(draw_fit(arguments.seed, arguments.only)))
        summary = soak(arguments.seed, range(arguments.only, arguments.only + 1), say=say)
    say(str(summary))
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
