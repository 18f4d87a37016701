"""Rows that a model has no positions or embeddings for are refused before training, and no others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModel, AutoTokenizer

from lightning_sparsegrad import (
    ConfigurationError,
    ExtractiveQuestionAnswering,
    Identity,
    QuestionsDataModule,
    SequenceClassification,
    TextDataModule,
    TokenClassification,
    WordsDataModule,
)
from tests.cases import cases
from tests.data.helpers import WORDS, save_tokenizer, write
from tests.tiny import GPT, SEQUENCE_TO_SEQUENCE, TEXT, TOKENS, build

from .tasks import trainer

POSITIONS = 40
RELATIVE = {"relative_attention": True, "position_buckets": 8}
T5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "d_kv": 8, "decoder_start_token_id": 0}
LIMITED: dict[str, tuple[dict[str, Any], int]] = {
    "bert": (TEXT, POSITIONS),
    "roberta": ({**TEXT, "pad_token_id": 1}, POSITIONS - 2),
    "xlm-roberta": (TEXT, POSITIONS - 1),  # its padding token is 0
    "mpnet": ({**TEXT, "pad_token_id": 1}, POSITIONS - 2),
    "electra": ({**TEXT, "embedding_size": 16}, POSITIONS),
    "gpt2": (GPT, POSITIONS),
    "opt": ({**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}, POSITIONS),
    "bart": ({**SEQUENCE_TO_SEQUENCE, "max_position_embeddings": POSITIONS}, POSITIONS),
    "nystromformer": ({**TEXT, "num_landmarks": 4, "segment_means_seq_len": 4}, POSITIONS),
    "deberta": ({**TEXT, **RELATIVE, "pos_att_type": ["c2p"], "position_biased_input": True}, POSITIONS),
}
UNLIMITED: dict[str, dict[str, Any]] = {
    "llama": {**TEXT, "num_key_value_heads": 2},
    "modernbert": {**TEXT, "cls_token_id": 2, "sep_token_id": 3},
    "deberta-v2": {**TEXT, **RELATIVE, "position_biased_input": False},
    "bloom": {**TOKENS, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "xlnet": {"vocab_size": 50, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "t5": {**TOKENS, **T5},
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def save(kind: str, config: dict[str, Any], **changes: Any) -> str:
    """Save a model with a tokenizer that does not state a length."""
    made = AutoConfig.for_model(kind, **{**config, **changes})
    build(AutoModel.from_config, made).save_pretrained("model")  # type: ignore[operator]
    save_tokenizer(Path("model"), {"pad_token": "[PAD]", "eos_token": "[SEP]"})
    AutoTokenizer.from_pretrained("model", model_max_length=int(1e30)).save_pretrained("model")
    return "model"


def data_of(*lengths: int, max_length: int = 4 * POSITIONS, **kwargs: Any) -> TextDataModule:
    """Return data whose rows have as many tokens, special ones included, but one that is short."""
    texts = [" ".join(["good"] * (length - 2)) for length in (*lengths, 5)]
    path = write(Path("rows.parquet"), text=texts, label=[index % 2 for index, _ in enumerate(texts)])
    splits = dict.fromkeys(("train", "validation", "test", "predict"), path)
    return TextDataModule(data_files=splits, batch_size=2, max_length=max_length, **kwargs)


class Started(Callback):
    """Says whether a batch was read."""

    started = False

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = True


# ---------------------------------------------------------------- lengths
@cases("kind", LIMITED)
def test_the_longest_row_that_fits(kind: str) -> None:
    config, longest = LIMITED[kind]
    task = SequenceClassification(save(kind, config), 2, Identity())
    trainer(max_steps=1, limit_val_batches=0).fit(task, data_of(longest))
    seen = Started()
    message = rf"Parameter `max_length` should be at most {longest} for model `model`\. Found `max_length = 160` and"
    with pytest.raises(ConfigurationError, match=message):
        trainer(callbacks=[seen]).fit(task, data_of(longest + 7))
    assert not seen.started
    trainer().validate(task, data_of(longest + 7, max_length=longest), verbose=False)


@cases("kind", UNLIMITED)
def test_what_has_no_table_of_positions_has_no_limit(kind: str) -> None:
    task = SequenceClassification(save(kind, UNLIMITED[kind]), 2, Identity())
    trainer(max_steps=1, limit_val_batches=0).fit(task, data_of(3 * POSITIONS))


def test_a_length_that_no_row_reaches_is_no_fault() -> None:
    task = SequenceClassification(save("bert", TEXT), 2, Identity())
    trainer(max_steps=1).fit(task, data_of(POSITIONS - 1))


def test_padding_counts() -> None:
    task = SequenceClassification(save("bert", TEXT), 2, Identity())
    with pytest.raises(ConfigurationError, match=r"at most 40 .* a batch of 64 tokens"):
        trainer().fit(task, data_of(POSITIONS - 1, pad_to_multiple_of=64))


@cases("stage", ["validate", "test", "predict"])
def test_every_stage(stage: str) -> None:
    task = SequenceClassification(save("bert", TEXT), 2, Identity())
    with pytest.raises(ConfigurationError, match="`max_length` should be at most 40"):
        getattr(trainer(), stage)(task, datamodule=data_of(POSITIONS + 1))


def test_words() -> None:
    task = TokenClassification(save("bert", TEXT), ["a", "b"], Identity())
    path = write(Path("words.parquet"), words=[["good"] * 50, ["bad"]], tags=[["a"] * 50, ["b"]])
    data = WordsDataModule(data_files=dict.fromkeys(("train", "validation"), path), max_length=60)
    with pytest.raises(ConfigurationError, match=r"at most 40 .* a batch of 52 tokens"):
        trainer().fit(task, data)


@pytest.mark.parametrize("stage", ["fit", "predict"])
def test_windows(stage: str) -> None:
    task = ExtractiveQuestionAnswering(save("bert", TEXT), Identity())
    answers = [{"text": ["good"], "answer_start": [0]}] * 2
    texts = ["good day", " ".join(["good"] * 90)]
    path = write(Path("rows.jsonl"), question=["day"] * 2, context=texts, answers=answers)
    splits = dict.fromkeys(("train", "validation", "predict"), path)
    data = QuestionsDataModule(data_files=splits, max_length=60, max_question_length=4, stride=4)
    with pytest.raises(ConfigurationError, match=r"at most 40 .* a batch of 60 tokens"):
        getattr(trainer(), stage)(task, datamodule=data)


# ---------------------------------------------------------------- vocabularies
def test_a_token_that_the_model_does_not_embed() -> None:
    task = SequenceClassification(save("bert", TEXT, vocab_size=8), 2, Identity())
    largest = 4 + WORDS.index("good")
    message = (
        rf"Parameter `tokenizer` should name one whose token ids are below 8, the size of the vocabulary of `model`\. "
        rf"Found `tokenizer = model`, which makes token id {largest}\."
    )
    with pytest.raises(ConfigurationError, match=message):
        trainer().fit(task, data_of(9))


def test_tokens_that_do_not_occur_are_no_fault() -> None:
    task = SequenceClassification(save("bert", TEXT, vocab_size=4 + len(WORDS) - 1), 2, Identity())
    trainer(max_steps=1).fit(task, data_of(9))  # "the", the last word, is not in the data


def test_a_token_type_that_the_model_does_not_embed() -> None:
    model = save("bert", TEXT, type_vocab_size=1)
    task = SequenceClassification(model, 2, Identity())
    path = write(Path("pairs.parquet"), a=["good", "bad"], b=["day", "rain"], label=[0, 1])
    data = TextDataModule(data_files=dict.fromkeys(("train", "validation"), path), text_columns=["a", "b"])
    with pytest.raises(ConfigurationError, match=r"token types are below 1, the number that .* makes token type 1\."):
        trainer().fit(task, data)


# ---------------------------------------------------------------- batches of other origin
@pytest.mark.parametrize(
    ("ids", "match"),
    [(torch.full((2, 41), 5), r"`max_length` should be at most 40 .* Found a batch of 41 tokens\."),
     (torch.full((2, 9), 77), r"token ids are below 50, the size of the vocabulary of `model`\. Found token id 77\.")],
)  # fmt: skip
def test_a_batch_that_does_not_fit(ids: Any, match: str) -> None:
    task = SequenceClassification(save("bert", TEXT), 2, Identity())
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1])}
    loader: Any = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=match):
        trainer(limit_val_batches=0).fit(task, loader, loader)


def test_a_batch_that_does_not_fit_the_blocks() -> None:
    task = SequenceClassification(save("gptj", {**GPT, "rotary_dim": 4}), 2, Identity())  # they hold the positions
    with pytest.raises(ConfigurationError, match=r"at most 40 .* Found `max_length = 160` and a batch of 45 tokens"):
        trainer().fit(task, data_of(45))


def test_padding_is_no_token_to_look_up() -> None:
    task = SequenceClassification(save("bert", TEXT), 2, Identity())
    ids = torch.full((2, POSITIONS + 1), 5)
    ids[1, 3:] = 99  # `bert` embeds fewer
    with pytest.raises(ConfigurationError, match="`max_length` should be at most 40"):
        task({"input_ids": ids, "attention_mask": (ids == 5).long()})


def test_other_errors_stay_what_they_are() -> None:
    task = SequenceClassification(save("bert", TEXT), 2, Identity())
    ids = torch.full((2, 9), 5)
    with pytest.raises((IndexError, RuntimeError)) as raised:
        task({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 9])})
    assert not isinstance(raised.value, ConfigurationError)


def test_looking_leaves_no_trace() -> None:
    task = SequenceClassification(save("bert", TEXT), 2, Identity())
    task.model.bert.embeddings.eval()  # type: ignore[union-attr]
    before = torch.get_rng_state()
    modes = [module.training for module in task.modules()]
    task._require_fit({"input_ids": torch.full((2, 9), 5)})
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in task.modules()] == modes
    assert not any(module._forward_pre_hooks for module in task.modules())
