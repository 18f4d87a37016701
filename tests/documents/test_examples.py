"""The pages of `examples/`, run as programs: the encoder of the demo learns, and so does a tiny language model."""

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.cases import cases
from tests.hub import tiny_encoder
from tests.strategies import ROOT
from tests.tiny import tiny_llama

EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
LANGUAGE_MODELS = {"trl_lora"}
ROW = {"question": "how many are two and three ?", "answer": "two and three are five"}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def language_model(tmp_path: Path) -> Path:
    """A folder with a tiny Llama, a tokenizer that knows the words of `ROW`, and rows to learn."""
    folder = tmp_path / "model"
    words = sorted({word for text in ROW.values() for word in text.split()})
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106  # a word
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)  # type: ignore[no-untyped-call]
    model: Any = tiny_llama(initializer_range=0.3)
    model.save_pretrained(folder)
    (folder / "rows.jsonl").write_text(f"{json.dumps(ROW)}\n" * 64)
    return folder


def run(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    """Run an example in a folder of its own, and return what it prints."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with torch.random.fork_rng():
        runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
    return capsys.readouterr().out


def learns(printed: str) -> None:
    """Check that the losses that are printed fall, and that the share of kept entries is that of the strategy."""
    losses = [float(loss) for loss in re.findall(r"(?:loss|->) (\d+\.\d+)", printed)]
    assert losses[-1] < losses[0], printed
    kept = [float(share) for share in re.findall(r"kept'?:? '?(\d+\.\d+|\d)", printed)]
    assert kept, printed
    assert all(0.75 < share < 0.85 or share == 1 for share in kept), printed  # one has no mask, once all layers train


def test_the_plain_loop_prints_statistics_and_saves_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_encoder(tmp_path / "encoder", ["good", "bad"])
    printed = run("plain", tmp_path, capsys, monkeypatch, "--model", model, "--steps", "1", "--output", "tuned")
    assert re.fullmatch(r"step 0: loss \d\.\d{3}, kept 0\.\d\d, clipped [01]\.\d\d\n", printed)
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("encoder", "tuned"))
    name = "encoder.layer.0.attention.self.query.weight"
    moved = (before[name] - after[f"bert.{name}"]).abs() > 1e-4  # the learning rate is 2e-4, and decay far less
    assert 0.75 < moved.float().mean() < 0.85


@pytest.mark.long
@cases("name", sorted(EXAMPLES.keys() - LANGUAGE_MODELS))
def test_the_encoder_of_the_demo_learns(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learns(run(name, tmp_path, capsys, monkeypatch, "--steps", "10"))


@pytest.mark.long
@cases("name", sorted(LANGUAGE_MODELS))
@cases("more", [(), ("--full",)], ids=["lora", "full"])
def test_a_language_model_learns(
    name: str,
    more: tuple[str, ...],
    language_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["--model", str(language_model), "--data", str(language_model / "rows.jsonl"), "--steps", "20", *more]
    learns(run(name, language_model, capsys, monkeypatch, *arguments))
