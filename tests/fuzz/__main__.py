"""Try bad input for some minutes; print the counts, and every failure with the command that makes it again.

`python -m tests.fuzz --minutes 10 --seed 1` draws from all that the generators can make, systematic and random alike;
`--only TEXT` tries the cases with that text in their names.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from shutil import rmtree
from time import monotonic

import datasets
import torch

from tests.fuzz.cases import Case, try_in
from tests.fuzz.configs import Configs
from tests.fuzz.data import DataFiles
from tests.fuzz.material import checkpoints, save_model
from tests.fuzz.tasks import Tasks
from tests.hub import tiny_encoder

_RANDOM_SHARE = 0.5
_SEARCHED = 20_000  # random cases of each kind that `--only` looks through


def generate(folder: Path, seed: int) -> tuple[list[Case], tuple[Iterator[Case], ...]]:
    """Return the systematic cases, and the random ones for configs, for data and for tasks, without end."""
    model = save_model(folder / "model")
    (folder / "good").mkdir()
    configs, data = Configs(model, checkpoints(), seed), DataFiles(model, folder / "good", seed)
    tasks = Tasks(tiny_encoder(folder / "encoder", layers=1), seed)
    systematic = [*tasks.good(), *configs.systematic(), *data.systematic(), *tasks.systematic()]
    return systematic, (configs.at_random(), data.at_random(), tasks.at_random())


def _mixed(folder: Path, seed: int, only: str) -> Iterator[Case]:
    systematic, at_random = generate(folder, seed)
    if only:
        rest = (case for endless in at_random for case in islice(endless, _SEARCHED))
        yield from (case for cases in (systematic, rest) for case in cases if only in case.name)
        return
    draw = random.Random(seed)  # noqa: S311  # no secret
    draw.shuffle(systematic)
    while True:
        if systematic and draw.random() > _RANDOM_SHARE:
            yield systematic.pop()
        else:
            yield next(draw.choice(at_random))


def main() -> int:
    """Run, and return whether a case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    end = monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        datasets.config.HF_DATASETS_CACHE = root / "cache"
        for case in _mixed(root, given.seed, given.only):
            if monotonic() > end:
                break
            folder = root / "run"
            folder.mkdir()
            result = try_in(folder, case)
            rmtree(folder, ignore_errors=True)
            kind = "random" if case.name.startswith("random") else "systematic"
            counts[f"{kind}, {'failed' if result.failed else result.verdict}"] += 1
            if result.failed:
                again = f"python -m tests.fuzz --seed {given.seed} --only {case.name!r}"
                sys.stdout.write(f"{result.verdict}\n  {result.text[-500:]!r}\n  {again}\n")
                sys.stdout.flush()
    sys.stdout.writelines(f"{count:6} {what}\n" for what, count in sorted(counts.items()))
    return int(any("failed" in what for what in counts))


if __name__ == "__main__":
    sys.exit(main())
