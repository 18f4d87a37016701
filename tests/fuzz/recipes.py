"""A good command line for every data module of the package, in every format that it reads."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning_sparsegrad
from tests.data.helpers import write
from tests.hub import write_glue, write_xglue

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")
TEXTS = ["the rain falls", "old houses", "alpha beta", "gamma delta rain", "zeta", "on old houses", "eta theta", "iota"]
LABELS = [1, 0, 1, 0, 1, 1, 0, 0]
_TAGS = ("NOUN", "VERB", "ADJ")

Files = dict[str, bytes]


@dataclass(frozen=True)
class Recipe:
    """The arguments and files with which a data module runs.

    Args:
        task: The task that learns from it.
        write: Writes its files into a folder; in a format, where it has several.
        arguments: Its arguments; `{file}` stands for the file of rows.
        formats: The formats of that file; none if it has none.
    """

    task: str
    write: Callable[[Path, str], Any]
    arguments: Mapping[str, Any]
    formats: tuple[str, ...] = ("",)

    def files(self, extension: str) -> Files:
        with TemporaryDirectory() as name:
            folder = Path(name)
            self.write(folder, extension)
            return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def exported(base: type) -> dict[str, type]:
    """Return the classes of a kind that the package exports, so that a new one is included automatically."""
    kinds = ((name, getattr(lightning_sparsegrad, name)) for name in sorted(lightning_sparsegrad.__all__))
    return {
        name: kind
        for name, kind in kinds
        if isinstance(kind, type) and issubclass(kind, base) and not inspect.isabstract(kind)
    }


def parameters_of(kind: type) -> list[str]:
    """Return the parameters of a class, including those that it passes to its bases."""
    names: dict[str, None] = {}
    for owner in kind.__mro__:
        if not owner.__module__.startswith("lightning_sparsegrad."):
            break
        parameters = inspect.signature(owner.__init__).parameters.values() if "__init__" in vars(owner) else ()  # type: ignore[misc]
        plain = (each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL))
        names |= dict.fromkeys(name for name in plain if name not in ("self", "encoding", "config"))
    return list(names)


def _texts(folder: Path, extension: str) -> None:
    write(folder / f"rows.{extension}", text=TEXTS, label=LABELS)


def _rankings(folder: Path, extension: str) -> None:
    queries = ["alpha"] * 4 + ["beta"] * 4
    write(folder / f"rows.{extension}", query=queries, text=TEXTS, label=LABELS)


def _words(folder: Path, extension: str) -> None:
    rows = [text.split() for text in TEXTS]
    tags = [[_TAGS[len(word) % 3] for word in row] for row in rows]
    if extension in ("json", "jsonl", "parquet"):
        write(folder / f"rows.{extension}", words=rows, tags=tags)
        return
    sentences = (
        "".join(f"{word} {tag}\n" for word, tag in zip(row, names, strict=True))
        for row, names in zip(rows, tags, strict=True)
    )
    (folder / f"rows.{extension}").write_text("\n".join(sentences), encoding="utf-8")


def _questions(folder: Path, extension: str) -> None:
    context = "the rain falls on old houses"
    words = ["rain", "falls", "old", "houses"]
    answers = [{"text": [word], "answer_start": [context.index(word)]} for word in words]
    if extension == "json":
        asked = [
            {
                "id": str(index),
                "question": f"alpha {word}",
                "answers": [{"text": word, "answer_start": context.index(word)}],
            }
            for index, word in enumerate(words)
        ]
        articles = [{"title": "t", "paragraphs": [{"context": context, "qas": asked}]}]
        (folder / "rows.json").write_text(json.dumps({"version": "1", "data": articles}))
        return
    columns = {"id": list("0123"), "question": [f"alpha {word}" for word in words], "context": [context] * 4}
    write(folder / f"rows.{extension}", **columns, answers=answers)


def _emoji(folder: Path, _: str) -> None:
    groups = {
        "Smileys & Emotion": "😃😀😁😂🤣😄😅😆😉😊😋😎😍😘😗",
        "Animals & Nature": "🐶🐵🐒🦍🦧🐕🦮🐩🐺🦊🦝🐱🐈🦁🐯",
    }
    names = folder / "unicode" / "cldr" / "common" / "annotations"
    names.mkdir(parents=True)
    (folder / "unicode" / "emoji").mkdir()
    lines = []
    for group, emoji in groups.items():
        lines += [f"# group: {group}", *(f"{ord(each):04X} ; fully-qualified # {each} E1.0 x" for each in emoji)]
    (folder / "unicode" / "emoji" / "emoji-test.txt").write_text("\n".join(lines), encoding="utf-8")
    for language in ("en", "de"):
        rows = "".join(
            f'<annotation cp="{each}">rain</annotation><annotation cp="{each}" type="tts">old {word}</annotation>'
            for word, emoji in zip(("alpha", "beta"), groups.values(), strict=True)
            for each in emoji
        )
        text = f'<?xml version="1.0" encoding="UTF-8" ?>\n<ldml><identity/><annotations>{rows}</annotations></ldml>'
        (names / f"{language}.xml").write_text(text, encoding="utf-8")


_SPLITS = {"train": "{file}", "validation": "{file}", "test": "{file}", "predict": "{file}"}
RECIPES: dict[str, Recipe] = {
    "TextDataModule": Recipe("SequenceClassification", _texts, {"data_files": _SPLITS}, FORMATS),
    "RankingsDataModule": Recipe(
        "PointwiseRanking", _rankings, {"data_files": _SPLITS, "text_columns": "text"}, FORMATS
    ),
    "WordsDataModule": Recipe(
        "TokenClassification", _words, {"data_files": _SPLITS}, ("conll", "json", "jsonl", "parquet")
    ),
    "QuestionsDataModule": Recipe(
        "ExtractiveQuestionAnswering",
        _questions,
        {"data_files": _SPLITS, "stride": 2, "max_question_length": 4},
        ("json", "jsonl", "parquet"),
    ),
    "GlueDataModule": Recipe(
        "SequenceClassification",
        lambda folder, _: write_glue(folder / "glue", "mrpc"),
        {"task": "mrpc", "dataset": "glue"},
    ),
    "XglueDataModule": Recipe(
        "TokenClassification",
        lambda folder, _: write_xglue(folder / "xglue", "ner"),
        {"task": "ner", "dataset": "xglue", "languages": ["en", "de"]},
    ),
    "EmojiTopicsDataModule": Recipe(
        "SequenceClassification", _emoji, {"root": "unicode", "languages": ["en", "de"], "min_names": 1}
    ),
    "ValenceDataModule": Recipe("SequenceClassification", lambda *_: None, {"target": "polarity", "max_samples": 16}),
}
