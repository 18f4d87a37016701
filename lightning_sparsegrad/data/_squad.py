"""Questions in SQuAD's nested JSON of articles, paragraphs and questions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_sparsegrad.data._lines import digests_of

if TYPE_CHECKING:
    from datasets import Dataset

_TEXT = ("id", "title", "context", "question")
_ANSWERS = {"text": "string", "answer_start": "int64"}


def is_squad(path: str) -> bool:
    """Return whether a file is a JSON object with articles as its `data`."""
    return _articles(path) is not None


def load_squad(paths: Sequence[str]) -> Dataset:
    """Return the questions of files in order, with `id`, `title`, `context`, `question` and `answers`.

    `answers` are `{"text": [...], "answer_start": [...]}`, empty if `is_impossible` is true, as in SQuAD 2. Without
    either entry in any question, as in files to predict, the column is left out.

    Raises:
        ValueError: If a file is not in SQuAD's format, an entry is missing, or there is no question.

    References:
        Pranav Rajpurkar, Robin Jia, Percy Liang. Know What You Don't Know: Unanswerable Questions for SQuAD. ACL 2018.
        https://arxiv.org/abs/1806.03822
    """
    from datasets import Dataset, Features, List, Value

    known = [("answers" in question or "is_impossible" in question) for *_, question in _questions(paths)]
    if not known:
        raise ValueError(f"{', '.join(Path(path).name for path in paths)}: no question")
    answers = {key: List(Value(kind)) for key, kind in _ANSWERS.items()}
    features = {**dict.fromkeys(_TEXT, Value("string")), **({"answers": answers} if any(known) else {})}
    facts = {"paths": tuple(paths), "columns": tuple(features), "contents": digests_of(paths)}
    return Dataset.from_generator(_rows, Features(features), gen_kwargs=facts)


def _rows(
    paths: Sequence[str],
    columns: Sequence[str],
    contents: Sequence[str],  # noqa: ARG001
) -> Iterator[dict[str, Any]]:
    for path, title, context, question in _questions(paths):
        try:
            row = {"id": str(question["id"]), "title": title, "context": context, "question": question["question"]}
            answers = [] if question.get("is_impossible") else question.get("answers", [])
            if "answers" in columns:
                row["answers"] = {key: [answer[key] for answer in answers] for key in _ANSWERS}
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{Path(path).name}: question {question!r} lacks {error}"
            ) from None  # the message has the cause
        yield row


def _questions(paths: Sequence[str]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield the file, the title, the text and the entries of each question."""
    for path in paths:
        articles = _articles(path)
        if articles is None:
            raise ValueError(f"{Path(path).name} should have articles as the files before it have. Found none")
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph.get("qas", ()):
                    yield path, str(article.get("title", "")), paragraph.get("context"), question


def _articles(path: str) -> list[dict[str, Any]] | None:
    text = Path(path).read_bytes()
    if not text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    try:
        content = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # one object per line, or an error that reading it reports
        return None
    articles = content.get("data") if isinstance(content, dict) else None
    is_nested = (
        isinstance(articles, list)
        and articles
        and all(isinstance(article, dict) and isinstance(article.get("paragraphs"), list) for article in articles)
    )
    return articles if is_nested else None
