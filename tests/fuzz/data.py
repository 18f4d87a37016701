"""Bad data files of every format: empty, truncated, in other encodings, with wrong columns and wrong labels."""

import random
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from datasets import Dataset

from tests.data.helpers import LABELS, SENTENCES, write
from tests.fuzz.cases import Case
from tests.fuzz.material import task, to_yaml

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")
TEXTS = [text or "of" for text in SENTENCES]
BAD_LABELS: dict[str, list[Any]] = {
    "a label is NaN": [0.5, float("nan")],
    "a label is infinite": [0.5, float("inf")],
    "a label is missing": [1, None],
    "all labels are missing": [None, None],
    "a label is empty": ["1", ""],
    "labels skip one": [0, 2],
    "labels start at one": [1, 2],
    "a label is negative": [-1, 0],
    "one class": [0, 0],
    "labels are huge": [0, 2**62],
    "labels are floats": [0.5, 1e300],
    "labels are lists": [[0], [1]],
    "labels are dicts": [{"a": 0}, {"a": 1}],
    "labels are booleans": [True, False],
    "labels are dates": ["2026-01-01", "2026-01-02"],
    "labels are names": ["good", "bad"],
    "labels are of two kinds": ["good", "1"],
    "labels hold NUL": ["a\0", "b"],
}  # fmt: skip

_ROWS = {
    "a number": "3",
    "a list": "[1, 2]",
    "null": "null",
    "another object": '{"x": 1}',
    "half an object": '{"text": ',
    "no quotes": "{text: good, label: 1}",
    "a comma too many": '{"text": "good", "label": 1,}',
    "a label of text": '{"text": "fine", "label": "x"}',
    "a nested text": '{"text": {"a": "b"}, "label": 1}',
    "a key twice": '{"text": "a", "text": "b", "label": 1}',
    "NaN": '{"text": "fine", "label": NaN}',
    "Infinity": '{"text": "fine", "label": Infinity}',
    "a huge number": '{"text": "fine", "label": 1e999}',
    "a huge integer": '{"text": "fine", "label": 99999999999999999999999}',
    "half a character": '{"text": "\\ud800", "label": 1}',
    "deep lists": '{"text": "fine", "label": ' + "[" * 2000 + "]" * 2000 + "}",
}


class DataFiles:
    """The generator; each file is the train split of a run, the validation split is good.

    Args:
        model: The folder of a model with its tokenizer.
        folder: Where to write a good file of each format.
        seed: Of what is random.
    """

    def __init__(self, model: str, folder: Path, seed: int) -> None:
        self._model, self._seed = model, seed
        self._good = {
            extension: Path(write(folder / f"good.{extension}", text=TEXTS, label=LABELS)).read_bytes()
            for extension in FORMATS
        }
        self._folder = folder

    def systematic(self) -> Iterator[Case]:
        for extension in FORMATS:
            for name, content in self._spoilt(extension):
                yield self.case(f"{extension}: {name}", extension, content)
            for name, labels in BAD_LABELS.items():
                rows = {"text": TEXTS[:2], "label": labels}
                yield self.case(f"{extension}: {name}", extension, self._written(extension, rows), fits=False)
        good = self._good["csv"]
        yield self.case("a folder", "csv", b"", prepare=_folder)
        yield self.case("unreadable", "csv", good, prepare=_broken_link)
        yield self.case("an extension of capitals", "CSV", good)
        yield self.case("no extension", "", good)
        yield self.case("another extension", "txt", good)
        for extension in FORMATS:
            for other in FORMATS:
                if other != extension:
                    yield self.case(f"{other} called {extension}", extension, self._good[other])

    def at_random(self) -> Iterator[Case]:
        """Yield endless good files that are truncated, or have bytes changed, inserted or removed."""
        draw, index = random.Random(self._seed), 0  # noqa: S311  # no secret
        while True:
            extension = draw.choice(FORMATS)
            content = bytearray(self._good[extension])
            for _ in range(draw.choice((1, 1, 2, 8))):
                start = draw.randrange(len(content) + 1)
                how = draw.randrange(4)
                if how == 0:
                    content = content[:start]
                elif how == 1:
                    content[start : start + draw.choice((1, 4, 30))] = b""
                elif how == 2:
                    content[start:start] = draw.choice(
                        (b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\t", b"{", b"]", b"null", b"NaN")
                    )
                else:
                    content[start : start + 1] = draw.randbytes(1)
            yield self.case(f"random data {self._seed}/{index}", extension, bytes(content))
            index += 1

    def case(
        self,
        name: str,
        extension: str,
        content: bytes,
        *,
        fits: bool = True,
        prepare: Callable[[Path], None] | None = None,
    ) -> Case:
        file = f"train.{extension}" if extension else "train"
        config = task(self._model)
        good = f"{self._folder}/good.csv"
        config["data"]["init_args"]["data_files"] = {"train": file, "validation": good} if fits else {"train": file}
        files = {"task.yaml": to_yaml(config), file: content}
        return Case(name, ("fit", "--config=task.yaml"), files, says=("train", "Labels"), prepare=prepare, finite=True)

    def _written(self, extension: str, rows: dict[str, Any]) -> bytes:
        if extension == "parquet":
            buffer = BytesIO()
            Dataset.from_dict(rows).to_parquet(buffer)
            return buffer.getvalue()
        return Path(write(self._folder / f"spoilt.{extension}", **rows)).read_bytes()

    def _spoilt(self, extension: str) -> Iterator[tuple[str, bytes]]:
        good = self._good[extension]
        yield "empty", b""
        yield "a blank line", b"\n"
        yield "blank", b"   \n\n  \n"
        yield "all bytes", bytes(range(256)) * 4
        yield "zeros", b"\0" * 1000
        for share in (1, 3, 5, 7, 9):
            yield f"cut at {share} tenths", good[: len(good) * share // 10]
        yield "one byte short", good[:-1]
        yield "twice", good + good
        yield "missing columns", self._written(extension, {"other": TEXTS})
        yield "a missing label column", self._written(extension, {"text": TEXTS})
        yield "an extra column", self._written(extension, {"text": TEXTS, "label": LABELS, "extra": TEXTS})
        yield "a column of the model's", self._written(extension, {"text": TEXTS, "label": LABELS, "input_ids": LABELS})
        yield "texts that are numbers", self._written(extension, {"text": LABELS, "label": LABELS})
        yield "missing texts", self._written(extension, {"text": [None, *TEXTS[1:]], "label": LABELS})
        yield (
            "a row of ten megabytes",
            self._written(extension, {"text": ["rain " * 2_000_000, "bad"], "label": [0, 1]}),
        )
        yield "one row", self._written(extension, {"text": ["rain"], "label": [0]})
        if extension == "parquet":
            yield "a magic number alone", b"PAR1"
            return
        text = good.decode()
        yield "utf-16", text.encode("utf-16")
        yield "utf-32", text.encode("utf-32")
        yield "a byte order mark", b"\xef\xbb\xbf" + good
        yield "latin-1", text.replace("good", "go\xf6d").encode("latin-1")
        yield "NUL bytes", text.replace("good", "go\0d").encode()
        yield "windows lines", text.replace("\n", "\r\n").encode()
        yield "old lines", text.replace("\n", "\r").encode()
        if extension in ("csv", "tsv"):
            yield from _tables("," if extension == "csv" else "\t")
        else:
            yield from _objects(extension)


def _tables(comma: str) -> Iterator[tuple[str, bytes]]:
    head = f"text{comma}label\n"
    rows = f"good{comma}1\nbad{comma}0\n"
    yield "a header alone", head.encode()
    yield "no header", rows.encode()
    yield "an unbalanced quote", f'{head}"good{comma}1\nbad{comma}0\n'.encode()
    yield "a quote inside", f'{head}go"od{comma}1\nbad{comma}0\n'.encode()
    yield "a long row", f"{head}{rows}fine{comma}1{comma}2{comma}3\n".encode()
    yield "a short row", f"{head}{rows}fine\n".encode()
    yield "long rows", f"{head}good{comma}1{comma}x\nbad{comma}0{comma}x\n".encode()
    yield "a column twice", f"text{comma}label{comma}label\ngood{comma}1{comma}0\nbad{comma}0{comma}1\n".encode()
    yield "a nameless column", f"{comma}text{comma}label\n0{comma}good{comma}1\n1{comma}bad{comma}0\n".encode()
    yield (
        "a wide header",
        (comma.join(f"c{index}" for index in range(20_000)) + "\n" + comma.join("1" * 20_000) + "\n").encode(),
    )
    yield "other separators", b"text;label\ngood;1\nbad;0\n"
    yield "html", b"<!DOCTYPE html><html><body>404</body></html>\n"
    for label in ("NaN", "inf", "1e999", "99999999999999999999999", "-1", "0x1", " ", "True"):
        yield f"a label that reads {label!r}", f"{head}{rows}fine{comma}{label}\n".encode()


def _objects(extension: str) -> Iterator[tuple[str, bytes]]:
    rows = ['{"text": "good", "label": 1}', '{"text": "bad", "label": 0}']
    join: Callable[[list[str]], bytes] = (
        (lambda parts: f"[{', '.join(parts)}]".encode())
        if extension == "json"
        else (lambda parts: "\n".join(parts).encode())
    )
    yield "no rows", join([])
    for name, row in _ROWS.items():
        yield f"a row with {name}", join([*rows, row])
        yield f"a first row with {name}", join([row, *rows])


def _folder(folder: Path) -> None:
    (folder / "train.csv").unlink()
    (folder / "train.csv").mkdir()


def _broken_link(folder: Path) -> None:
    (folder / "train.csv").unlink()
    (folder / "train.csv").symlink_to(folder / "train.csv")
