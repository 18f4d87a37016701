"""Sentences of movie reviews with the mean of human ratings, from the source distribution of `vaderSentiment`."""

import csv
import tarfile
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.studies.packages import download

_SOURCE = "vaderSentiment==3.3.2"
_ARCHIVE, _RATINGS = "hutto_ICWSM_2014.tar.gz", "movieReviewSnippets_GroundTruth.txt"
SIZES = (500, 1000, 2500)  # sentences in the training sets
_HELD_OUT = 1000  # sentences each for validation and test


def make_reviews(folder: Path) -> None:
    """Write `train_500.csv` and so on, `validation.csv` and `test.csv`, with columns `sentence` and `polarity`.

    A sentence is positive or negative by the sign of its mean rating. Sentences without a rating and repeated ones are
    left out. They are ordered by a hash, so that a smaller training set is the start of a larger one.
    """
    with TemporaryDirectory() as temporary:
        source = download(_SOURCE, Path(temporary), source=True)
        with tarfile.open(source) as outer:
            name = next(name for name in outer.getnames() if name.endswith(_ARCHIVE))
            inner = outer.extractfile(name)
            with tarfile.open(fileobj=inner) as archive:
                ratings = next(name for name in archive.getnames() if name.endswith(_RATINGS))
                file = archive.extractfile(ratings)
                lines = file.read().decode("utf-8").splitlines() if file else []
    rated = [line.split("\t") for line in lines]
    polarity = {
        sentence.strip(): "positive" if float(mean) > 0 else "negative" for _, mean, sentence in rated if float(mean)
    }
    rows = sorted(polarity.items(), key=lambda row: sha256(row[0].encode()).hexdigest())
    held_out, rest = rows[: 2 * _HELD_OUT], rows[2 * _HELD_OUT :]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "validation.csv", held_out[:_HELD_OUT])
    _write(folder / "test.csv", held_out[_HELD_OUT:])
    for size in SIZES:
        _write(folder / f"train_{size}.csv", rest[:size])


def _write(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sentence", "polarity"), *rows])
