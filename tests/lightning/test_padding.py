"""One padding token for model and tokenizer: a row's logits are the same alone and in a batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
)

from lightning_sparsegrad import (
    ExtractiveQuestionAnswering,
    Identity,
    PointwiseRanking,
    QuestionsDataModule,
    RankingsDataModule,
    SequenceClassification,
    TextDataModule,
    TokenClassification,
    WordsDataModule,
)
from lightning_sparsegrad.modules import TransformerTask
from tests.cases import cases
from tests.data.helpers import SENTENCES, save_tokenizer, write
from tests.tiny import GPT, SEQUENCE_TO_SEQUENCE, TEXT, build

from .tasks import trainer

PAD, UNK, CLS, SEP = range(4)  # of the tokenizer
TEXTS = [text or "fine" for text in SENTENCES]
LLAMA = {**TEXT, "num_key_value_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": LLAMA,
    "llama": LLAMA,
    "gpt2": GPT,
    "opt": {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bert": TEXT,
    "roberta": TEXT,
    "deberta-v2": {**TEXT, "relative_attention": True, "position_buckets": 8},
    "modernbert": {**TEXT, "cls_token_id": 2, "sep_token_id": 3},
    "bart": {**SEQUENCE_TO_SEQUENCE, "max_position_embeddings": 40},
    "xlnet": {"vocab_size": 50, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
}
# tokenizers with and without a padding token, which pad on either side
ENDS: dict[str, str] = {"eos_token": "[SEP]"}
PADS = {"pad_token": "[PAD]", **ENDS}
PADDED = [[(PADS, "right"), (ENDS, "left")], [(PADS, "left"), (ENDS, "right")]]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def save_model(kind: str, folder: str = "model", **changes: Any) -> str:
    config = AutoConfig.for_model(kind, **{**CONFIGS[kind], "initializer_range": 0.2, **changes})
    build(AutoModel.from_config, config).save_pretrained(folder)  # type: ignore[operator]
    return folder


def save(special: dict[str, str], *, side: str = "right", folder: str = "model") -> None:
    """Save a tokenizer that pads with `[PAD]`, which is 0, or has no padding token."""
    save_tokenizer(Path(folder), special)
    AutoTokenizer.from_pretrained(folder, padding_side=side).save_pretrained(folder)


def data_of(tokenizer: str | None = None, **kwargs: Any) -> TextDataModule:
    path = write(Path("rows.parquet"), text=TEXTS, label=[0, 1] * 4)
    splits = dict.fromkeys(("train", "validation", "test", "predict"), path)
    return TextDataModule(data_files=splits, tokenizer=tokenizer, batch_size=8, **kwargs)


@torch.no_grad()
def difference(task: TransformerTask, data: Any) -> float:
    """Return by how much the outputs of a row differ, alone and in a batch, at most and for its own tokens."""
    task.model.train(mode=False)
    rows = data.dataset("validation")
    whole = list(range(len(rows)))
    batch = data.encoding.collate(data.tokens, [rows[row] for row in whole], None)
    logits = []
    together = outputs(task(batch))
    assert (batch["attention_mask"] == 0).any()
    for row, mask in zip(whole, batch["attention_mask"].bool(), strict=True):
        alone = outputs(task(data.encoding.collate(data.tokens, [rows[row]], None)))
        for one, other in zip(alone, together, strict=True):
            kept = other[row][mask] if other.ndim > 1 and other.shape[1] == len(mask) else other[row]
            logits.append(float((one[0] - kept).abs().max()))
    return max(logits)


def outputs(output: Any) -> list[Tensor]:
    return [output.logits] if "logits" in output else [output.start_logits, output.end_logits]


# ---------------------------------------------------------------- logits
@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.long)], ids=["one half", "the other half"])
@cases("kind", CONFIGS)
def test_a_row_alone_and_in_a_batch(kind: str, turn: int) -> None:
    model = save_model(kind)
    for special, side in PADDED[(turn + list(CONFIGS).index(kind)) % 2]:
        save(special, side="left" if kind == "xlnet" else side)  # whose head reads the last token
        task = SequenceClassification(model, 2, Identity())
        data = data_of()
        run = trainer(limit_predict_batches=1)
        run.predict(task, data, return_predictions=False)
        assert difference(task, data) < 1e-5, (special, side)


@cases("padding", [None, -1, 1, 14, 99])
@cases("kind", ["qwen2", "gpt2"])
def test_whatever_the_configuration_of_a_decoder_says(kind: str, padding: int | None) -> None:
    model = save_model(kind, pad_token_id=None)
    config = AutoConfig.from_pretrained(model)
    config.pad_token_id = padding
    config.save_pretrained(model)
    save({"pad_token": "[PAD]", "eos_token": "[SEP]"})
    task = SequenceClassification(model, 2, Identity())
    data = data_of(model)
    data.setup("validate")
    assert difference(task, data) < 1e-5  # without a Trainer
    trainer().validate(task, data_of(), verbose=False)
    assert task.model.config.pad_token_id == PAD


# peft 0.21 asks transformers 5.23 for what it deprecated
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
@cases("padding", [None, -1, 99])
def test_an_adapter_pads_as_the_tokenizer_of_its_base(padding: int | None) -> None:
    peft = pytest.importorskip("peft")
    model = save_model("gpt2", pad_token_id=None)
    save({"pad_token": "[PAD]", "eos_token": "[SEP]"})
    settings = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["c_attn"], fan_in_fan_out=True)
    adapted = peft.get_peft_model(AutoModelForSequenceClassification.from_pretrained(model, num_labels=2), settings)
    adapted.save_pretrained("adapter")
    config = AutoConfig.from_pretrained(model)
    config.pad_token_id = padding
    config.save_pretrained(model)
    task = SequenceClassification("adapter", 2, Identity())
    assert task.model.config.pad_token_id == PAD


def test_several_end_tokens() -> None:
    model = save_model("llama", eos_token_id=[5, 6], pad_token_id=None)
    save({"eos_token": "[SEP]"})
    task = SequenceClassification(model, 2, Identity())
    assert task.model.config.pad_token_id == SEP  # the tokenizer's end token
    trainer().fit(task, data_of())
    assert difference(task, data_of(model)) < 1e-5
    Path(model, "tokenizer.json").unlink()
    Path(model, "tokenizer_config.json").unlink()
    assert SequenceClassification(model, 2, Identity()).model.config.pad_token_id == 5


def test_an_end_token_in_a_text_is_read() -> None:
    model = save_model("llama", pad_token_id=None)
    save({"eos_token": "[SEP]"})  # each row ends with it
    path = write(Path("rows.parquet"), text=["good day", "good [SEP] day of rain", "bad [SEP]"], label=[0, 1, 1])
    data = TextDataModule(data_files={"train": path, "validation": path}, batch_size=3)
    task = SequenceClassification(model, 2, Identity())
    trainer().validate(task, data, verbose=False)
    assert difference(task, data) < 1e-5


def test_the_tokenizer_takes_the_padding_token_of_the_model() -> None:
    model = save_model("llama", pad_token_id=UNK)
    save({"eos_token": "[SEP]"})  # it knows [UNK] as a special token
    task, data = SequenceClassification(model, 2, Identity()), data_of()
    trainer().validate(task, data, verbose=False)
    assert data.tokenizer.pad_token_id == task.model.config.pad_token_id == UNK


def test_a_padding_token_that_the_model_does_not_embed() -> None:
    model = save_model("llama", vocab_size=14, pad_token_id=None)
    save({"eos_token": "[SEP]"})
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(model)
    task, data = SequenceClassification(model, 2, Identity()), data_of()
    trainer().validate(task, data, verbose=False)
    assert data.tokenizer.pad_token_id == 14
    assert task.model.config.pad_token_id == SEP
    assert difference(task, data) < 1e-5


def test_positions_that_count_from_the_padding_token_of_the_model() -> None:
    model = save_model("roberta", pad_token_id=1)
    save({"pad_token": "[PAD]", "eos_token": "[SEP]"}, side="left")
    task, data = SequenceClassification(model, 2, Identity()), data_of()
    trainer().validate(task, data, verbose=False)
    assert task.model.config.pad_token_id == 1
    assert difference(task, data) < 1e-5
    rows = data.dataset("validation")
    left, right = (collated(data, rows, side) for side in ("left", "right"))
    tokens = TokenClassification(model, ["a", "b"], Identity()).eval()
    with torch.no_grad():
        masks = [batch["attention_mask"].bool() for batch in (left, right)]
        one, other = (tokens(batch).logits[kept] for batch, kept in zip((left, right), masks, strict=True))
    assert torch.allclose(one, other, atol=1e-5)


def collated(data: TextDataModule, rows: Any, side: str) -> Any:
    data.tokenizer.padding_side = side
    batch = data.encoding.collate(data.tokens, [rows[row] for row in range(len(rows))], None)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


# ---------------------------------------------------------------- tasks
def words(model: str) -> tuple[TransformerTask, Any]:
    rows = [text.split() for text in TEXTS]
    path = write(Path("words.parquet"), words=rows, tags=[["a", *["b"] * (len(row) - 1)] for row in rows])
    splits = dict.fromkeys(("train", "validation", "test", "predict"), path)
    return TokenClassification(model, ["a", "b"], Identity()), WordsDataModule(data_files=splits)


def rankings(model: str) -> tuple[TransformerTask, Any]:
    path = write(Path("rankings.parquet"), query=TEXTS, title=TEXTS[::-1], label=[0, 1] * 4)
    splits = dict.fromkeys(("train", "validation", "test", "predict"), path)
    return PointwiseRanking(model, 2, Identity()), RankingsDataModule(
        data_files=splits, text_columns=["query", "title"]
    )


def questions(model: str) -> tuple[TransformerTask, Any]:
    given = [{"text": [text.split()[0]], "answer_start": [0]} for text in TEXTS]
    path = write(Path("questions.jsonl"), question=["day"] * 8, context=TEXTS, answers=given)
    splits = dict.fromkeys(("train", "validation", "test", "predict"), path)
    data = QuestionsDataModule(data_files=splits, max_length=32, max_question_length=4, stride=4)
    return ExtractiveQuestionAnswering(model, Identity()), data


@cases("make", [words, rankings, questions])
@cases("kind", ["gpt2", "qwen2", "roberta"])
def test_every_task(kind: str, make: Any) -> None:
    model = save_model(kind, pad_token_id=PAD if kind == "roberta" else None)
    save({"pad_token": "[PAD]", "eos_token": "[SEP]"}, side="left")
    task, data = make(model)
    trainer().test(task, data, verbose=False)
    assert task.model.config.pad_token_id == PAD
    assert difference(task, data) < 1e-5


@cases("stage", ["fit", "validate", "test", "predict"])
def test_every_stage_with_another_tokenizer(stage: str) -> None:
    model = save_model("llama", pad_token_id=None)
    save({"eos_token": "[CLS]"})
    save({"pad_token": "[PAD]"}, folder="other")
    task = SequenceClassification(model, 2, Identity())
    assert task.model.config.pad_token_id == CLS
    getattr(trainer(), stage)(task, datamodule=data_of("other"))
    assert task.model.config.pad_token_id == PAD


def test_a_loaded_checkpoint_pads_as_it_was_trained() -> None:
    model = save_model("llama", pad_token_id=None)
    save({"eos_token": "[CLS]"})
    save({"pad_token": "[UNK]"}, folder="other")
    task = SequenceClassification(model, 2, Identity())
    run = trainer(max_steps=1)
    run.fit(task, data_of("other"))
    run.save_checkpoint("a.ckpt")
    loaded = SequenceClassification.load_from_checkpoint("a.ckpt", gradient_transform=Identity())
    assert loaded.model.config.pad_token_id == UNK
    batch = next(iter(data_of("other").predict_dataloader()))
    resumed = SequenceClassification(model, 2, Identity())
    trainer().predict(resumed, DataLoader([batch], batch_size=None), ckpt_path="a.ckpt")  # type: ignore[arg-type]
    assert resumed.model.config.pad_token_id == UNK
    save({"pad_token": "[PAD]"}, folder="third")
    trainer().predict(resumed, data_of("third"), ckpt_path="a.ckpt")
    assert resumed.model.config.pad_token_id == PAD  # of the data
    loaded.model.save_pretrained("out")
    assert AutoConfig.from_pretrained("out").pad_token_id == UNK


# ---------------------------------------------------------------- data of other origin
class Own(LightningDataModule):
    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def predict_dataloader(self) -> DataLoader[Any]:
        rows = [self.tokenizer(text) for text in TEXTS]
        return DataLoader(rows, batch_size=8, collate_fn=DataCollatorWithPadding(self.tokenizer))  # type: ignore[arg-type]


def test_data_of_the_user_s_own() -> None:
    model = save_model("qwen2", pad_token_id=None)
    save({"pad_token": "[PAD]"})
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    save({"eos_token": "[SEP]"})
    task = SequenceClassification(model, 2, Identity())
    trainer().predict(task, datamodule=Own(tokenizer))
    assert task.model.config.pad_token_id == PAD


@torch.no_grad()
@cases("filler", [PAD, 13, 99])
def test_batches_padded_with_anything(filler: int) -> None:
    task = SequenceClassification(save_model("qwen2", pad_token_id=None), 2, Identity()).eval()
    row = torch.tensor([[CLS, 7, 8, SEP, 9]])
    alone = task({"input_ids": row, "attention_mask": torch.ones_like(row)}).logits
    ids = torch.cat([row, torch.full((1, 3), filler)], dim=1)
    padded = task({"input_ids": ids, "attention_mask": (torch.arange(8) < 5).long()[None]}).logits
    assert torch.allclose(padded, alone, atol=1e-6)
    assert ids[0, -1] == filler  # the batch is the user's


def test_a_model_of_images_and_texts_has_its_padding_token_with_the_texts() -> None:
    text = Gemma3TextConfig(**{**LLAMA, "head_dim": 8, "pad_token_id": None, "num_hidden_layers": 2})
    image = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vision = {**image, "image_size": 16, "patch_size": 8}
    tokens = {"boi_token_index": 40, "eoi_token_index": 41, "image_token_index": 42, "mm_tokens_per_image": 4}
    config = AutoConfig.for_model("gemma3", text_config=text.to_dict(), vision_config=vision, **tokens)
    build(AutoModel.from_config, config).save_pretrained("model")  # type: ignore[operator]
    save({"pad_token": "[UNK]", "eos_token": "[SEP]"})
    task = SequenceClassification("model", 2, Identity())
    assert task.model.config.get_text_config().pad_token_id == UNK
