"""The work of both processes of test_two_processes.py; started by tests/launch.py, with a folder as its argument."""

import sys
import warnings
from pathlib import Path

import torch

from tests.resume import one_of_two_fails, two_processes, two_stops
from tests.studies import two_processes as of_a_study

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for each in (of_a_study, two_processes, two_stops, one_of_two_fails):  # the last one ends the process
        folder = Path(sys.argv[1], each.__name__.removeprefix("tests."))
        folder.mkdir(exist_ok=True)
        each.main(folder)
