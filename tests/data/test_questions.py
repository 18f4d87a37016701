import csv
import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sparsegrad.data import QuestionsDataModule
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases
from tests.data.helpers import MINILM, write

TEXTS = ["The capital of France is Paris. " + "It rains a lot there. " * 12 + "The river is the Seine.", "Rome is old."]
QUESTIONS = ["  Which river flows there?", "How old is Rome?"]
ANSWERS = ["the Seine", "Rome"]


def answers() -> list[Any]:
    return [
        {"text": [answer], "answer_start": [text.index(answer)]} for text, answer in zip(TEXTS, ANSWERS, strict=True)
    ]


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "rows.jsonl", question=QUESTIONS, context=TEXTS, answers=answers())


def module(path: str, **arguments: Any) -> QuestionsDataModule:
    given = {"max_length": 40, "stride": 8, "max_question_length": 10, "tokenizer": MINILM, **arguments}
    return QuestionsDataModule(data_files={"train": path, "test": path, "predict": path}, **given)


def test_positions_point_at_the_answer_in_each_window_that_holds_it(path):
    data = module(path)
    batches = list(data.train_dataloader())
    assert sorted(batches[0]) == ["attention_mask", "end_positions", "input_ids", "start_positions", "token_type_ids"]
    assert all(batch["input_ids"].shape[1] <= 40 for batch in batches)
    rows = [
        row
        for batch in batches
        for row in zip(*(batch[n] for n in ("input_ids", "start_positions", "end_positions")), strict=True)
    ]
    decoded = [data.tokenizer.decode(ids[start : end + 1]) for ids, start, end in rows]
    for (ids, *_), answer in zip(rows, decoded, strict=True):
        text = data.tokenizer.decode(ids)
        holds = "the seine" in text or "rome is" in text
        assert (answer in ("the seine", "rome")) == holds
        assert holds or answer == "[CLS]"
    assert len(decoded) > 4
    assert {"the seine", "rome", "[CLS]"} <= set(decoded)


def test_all_windows_of_a_question_are_in_one_batch(path):
    (batch,) = module(path).test_dataloader()
    rows = batch["window_row"].tolist()
    assert rows == sorted(rows)
    assert set(rows) == {0, 1}
    assert batch["contexts"] == TEXTS
    assert batch["answers"] == [[answer] for answer in ANSWERS]
    assert batch["offsets"].shape == (*batch["input_ids"].shape, 2)
    covered = {
        position
        for row, spans in zip(rows, batch["offsets"].tolist(), strict=True)
        if row == 0
        for position in chain(*(range(*s) for s in spans))
    }
    blanks = {position for position, character in enumerate(TEXTS[0]) if character == " "}
    assert covered | blanks >= set(range(len(TEXTS[0])))
    outside = (batch["offsets"] == -1).all(-1)
    special = (batch["token_type_ids"] == 0) | (batch["input_ids"] == 102)  # question and [SEP]
    assert torch.equal(outside, special)


def test_a_question_to_predict_needs_no_answer(tmp_path, path):
    new = write(tmp_path / "new.jsonl", question=QUESTIONS, context=TEXTS)
    data = QuestionsDataModule(data_files={"train": path, "predict": new}, tokenizer=MINILM, max_length=384)
    (batch,) = data.predict_dataloader()
    assert "answers" not in batch
    assert "start_positions" not in batch


def test_answers_may_be_a_list_and_stand_a_little_off(tmp_path, path):
    listed = [[{"text": a["text"][0], "answer_start": a["answer_start"][0] + 2}] for a in answers()]
    other = write(tmp_path / "other.jsonl", question=QUESTIONS, context=TEXTS, answers=listed)
    expected, actual = (
        [batch["start_positions"].tolist() for batch in module(p, seed=0).train_dataloader()] for p in (path, other)
    )
    assert actual == expected


@cases(
    ("given", "message"),
    [
        ([{"text": ["Berlin"], "answer_start": [0]}, answers()[1]], r"that occur in their texts\. Found 'Berlin'"),
        (["the Seine", "Rome"], r"should have answers as {'text': .* Found 'the Seine'\."),
        ([{"text": ["the Seine"]}, {"text": ["Rome"]}], r"should have answers as .* Found {'text': \['the Seine'\]}\."),
        ([None, answers()[1]], r"should have answers as .* Found None\."),
        ([{"text": [], "answer_start": []}] * 2, r"of split `train` should have an answer in some row\. Found none\."),
        ([answers()[0], {"text": [None], "answer_start": [0]}], r"have answers as .*'text': \[None\].* row 1\."),
        ([{"text": [7], "answer_start": [0]}] * 2, r"of split `test` should .*'text': \[7\].* row 0\."),
        ([answers()[0], {"text": ["Rome"], "answer_start": [None]}], r"have answers as .* row 1\."),
        ([[{"text": 1.5, "answer_start": 0}]] * 2, r"should have answers as .* Found \[{.*'text': 1\.5"),
    ],
)  # fmt: skip
def test_answers_that_are_not_there_are_reported(tmp_path, given, message):
    path = write(tmp_path / "rows.jsonl", question=QUESTIONS, context=TEXTS, answers=given)
    with pytest.raises(ConfigurationError, match=message):
        next(iter(module(path).train_dataloader() if "train" in message else module(path).test_dataloader()))


def test_windows_need_room(path):
    with pytest.raises(
        ConfigurationError,
        match=r"`max_length` should leave room for more than `stride` tokens .* Found `max_length = 20`",
    ):
        module(path, max_length=20).test_dataloader()


def test_an_answer_that_every_window_cuts_is_in_none(tmp_path):
    text = " ".join(f"word{number}" for number in range(40))
    answer = " ".join(f"word{number}" for number in range(14, 20))
    row = {"question": ["q"], "context": [text], "answers": [{"text": [answer], "answer_start": [text.index(answer)]}]}
    (batch,) = module(write(tmp_path / "rows.jsonl", **row), stride=4).test_dataloader()
    begins, ends = text.index(answer), text.index(answer) + len(answer)
    cut = [(spans[:, 1] > begins) & (spans[:, 0] < ends) & (spans[:, 1] >= 0) for spans in batch["offsets"]]
    assert [bool(each.any()) for each in cut[:2]] == [True, True]
    assert batch["start_positions"].tolist() == batch["end_positions"].tolist() == [0] * len(cut)


def test_left_padding_moves_what_is_as_long_as_the_tokens_and_points_at_them(path):
    data = module(path)
    data.tokenizer.padding_side = "left"
    (batch,) = data.test_dataloader()
    padded = batch["attention_mask"] == 0
    assert padded[:, 0].any()
    assert (batch["offsets"][padded] == -1).all()
    first = data.tokenizer("Rome is old", return_offsets_mapping=True)["offset_mapping"][-2]
    assert batch["offsets"][-1].tolist()[-3] == list(first)  # before the full stop and [SEP]
    start, end = (batch[name][-1] for name in ("start_positions", "end_positions"))
    assert data.tokenizer.decode(batch["input_ids"][-1][start : end + 1]) == "rome"


def test_a_tokenizer_that_does_not_tell_places_is_refused(path, monkeypatch):
    data = module(path)
    monkeypatch.setattr(type(data.tokenizer), "is_fast", False)
    with pytest.raises(ConfigurationError, match=r"one that returns the offsets of its tokens \(a fast one\)"):
        data.train_dataloader()


NONE = [[], {"text": [], "answer_start": []}, {"text": [""], "answer_start": [-1]}, [{"text": " ", "answer_start": 0}]]


@cases("none", NONE)
def test_a_question_without_an_answer_points_at_the_first_token(tmp_path, path, none):
    given = [none, [{"text": "Rome", "answer_start": 0}] if isinstance(none, list) else answers()[1]]
    new = write(tmp_path / "new.jsonl", question=QUESTIONS, context=TEXTS, answers=given)
    data = module(new, batch_size=99)
    (batch,) = data.train_dataloader()
    (with_answer,) = module(path, batch_size=99).train_dataloader()
    assert batch["input_ids"].shape == with_answer["input_ids"].shape
    positions = sorted(zip(batch["start_positions"].tolist(), batch["end_positions"].tolist(), strict=True))
    assert positions[:-1] == [(0, 0)] * (len(positions) - 1)
    assert positions[-1] > (0, 0)
    (batch,) = data.test_dataloader()
    assert batch["answers"] == [[""], ["Rome"]]
    assert data.has_unanswerable("train")
    assert not module(path).has_unanswerable("train")


def squad(path: Path, *, answered: bool = True) -> str:
    """Write a file in SQuAD's format: two articles, of one and two paragraphs."""

    def question(row: int, number: int) -> dict[str, Any]:
        answer = {"text": ANSWERS[row], "answer_start": TEXTS[row].index(ANSWERS[row])}
        if number:
            facts: dict[str, Any] = {"answers": [], "plausible_answers": [answer], "is_impossible": True}
        else:
            facts = {"answers": [answer, answer], "is_impossible": False}
        return {"id": f"{row}-{number}", "question": QUESTIONS[row], **(facts if answered else {})}

    def paragraph(row: int, count: int) -> dict[str, Any]:
        return {"qas": [question(row, number) for number in range(count)], "context": TEXTS[row]}

    articles = [
        {"title": "France", "paragraphs": [paragraph(0, 1)]},
        {"title": "Italy", "paragraphs": [paragraph(1, 2), {"context": "Nothing is asked.", "qas": []}]},
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": articles}))
    return str(path)


def test_files_of_squad_are_read_as_they_are(tmp_path):
    path = squad(tmp_path / "train-v2.0.json")
    data = module(path)
    assert data.rows("train")["id"][:] == ["0-0", "1-0", "1-1"]
    assert data.rows("train")["title"][:] == ["France", "Italy", "Italy"]
    assert [answer["text"] for answer in data.rows("train")["answers"]] == [
        ["the Seine"] * 2,
        ["Rome"] * 2,
        [],
    ]
    flat = {"question": [QUESTIONS[row] for row in (0, 1, 1)], "context": [TEXTS[row] for row in (0, 1, 1)]}
    given = [answers()[0], answers()[1], {"text": [], "answer_start": []}]
    expected = module(write(tmp_path / "flat.jsonl", answers=given, **flat))
    assert data.dataset("train").to_dict() == expected.dataset("train").to_dict()


def test_files_of_squad_without_answers_are_predicted(tmp_path):
    path = squad(tmp_path / "test.json", answered=False)
    data = module(path)
    assert data.rows("predict").column_names == ["id", "title", "context", "question"]
    (batch,) = data.predict_dataloader()
    assert batch["contexts"] == [TEXTS[0], TEXTS[1], TEXTS[1]]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"question": "Who?", "answers": []}, r"rows\.json: question .* lacks 'id'"),
        ({"id": 1, "question": "Who?", "answers": [{"text": "Rome"}]}, r"rows\.json: question .* lacks 'answer_start'"),
    ],
)
def test_what_a_file_of_squad_lacks_is_named(tmp_path, entry, message):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "Rome", "qas": [entry]}]}]}))
    with pytest.raises(ConfigurationError, match=message):
        module(str(path)).rows("train")


def test_predictions_are_written_with_the_ids_of_the_questions(tmp_path):
    data = module(squad(tmp_path / "test.json", answered=False))
    data.write_predictions(tmp_path / "out", "", ["Seine", "", "a\tb"])
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == {"0-0": "Seine", "1-0": "", "1-1": "a\tb"}
    rows = list(csv.reader((tmp_path / "out" / "predictions.tsv").read_text().splitlines(), delimiter="\t"))
    assert rows == [["index", "prediction", "id"], ["0", "Seine", "0-0"], ["1", "", "1-0"], ["2", "a\tb", "1-1"]]
