"""Deltas of checkpoints: what a run changed in the base model it was trained from."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, pipeline

from lightning_sparsegrad import (
    ConfigurationError,
    HeadOnly,
    Identity,
    SequenceClassification,
    TokenClassification,
    export_checkpoint,
    export_delta,
    load_delta,
)
from lightning_sparsegrad.main import main
from tests.export.test_delta import same
from tests.export.test_export import TAGS, TEXTS, adam, classes, fit_by_command, fitted, refused, words
from tests.export.test_export import in_a_folder_of_its_own as in_a_folder_of_its_own
from tests.lightning.tasks import trainer

PATH = "a.safetensors"


def base_of_three() -> Any:
    return AutoModelForSequenceClassification.from_pretrained("base", num_labels=3, dtype="float32")


def checkpoint_of(task: Any, path: str = "a.ckpt") -> None:
    run = trainer()
    run.strategy.connect(task)
    run.save_checkpoint(path)


def edit(change: Any) -> None:
    checkpoint = torch.load("a.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, "a.ckpt")


def sparse_task() -> SequenceClassification:
    """A task of which a few entries of the encoder and the head have been trained."""
    task = SequenceClassification("base", 3, Identity())
    state = task.model.state_dict()
    with torch.no_grad():
        state["bert.embeddings.word_embeddings.weight"][5:7] += 1
        state["bert.encoder.layer.0.output.dense.weight"][3, 4:6] *= 2
        state["classifier.weight"][0, 0] = 3.0
    return task


def test_a_checkpoint_is_restored_bit_by_bit() -> None:
    task, _, _ = fitted(classes)
    export_delta("a.ckpt", PATH)
    assert same(load_delta(base_of_three(), PATH), task.model)
    other = SequenceClassification("base", 3, Identity())
    assert same(load_delta(other, PATH).model, task.model)


def test_only_what_has_changed_is_stored_and_a_new_head_whole() -> None:
    task = sparse_task()
    checkpoint_of(task)
    exported = export_delta("a.ckpt", PATH)
    embeddings, dense = "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.weight"
    stored = {name: len(tensor.view(-1)) for name, tensor in load_file(PATH).items()}
    assert {name: count for name, count in stored.items() if not name.startswith("whole")} == {
        f"index:{embeddings}": 64,
        f"value:{embeddings}": 64,
        f"index:{dense}": 2,
        f"value:{dense}": 2,
    }
    assert {name for name in stored if name.startswith("whole")} == {"whole:classifier.weight", "whole:classifier.bias"}
    assert exported.size.entries == 64 + 2 + 3 * 32 + 3
    assert exported.size.size == Path(PATH).stat().st_size
    assert exported.size.of_entries == sum(parameter.numel() for parameter in task.model.parameters())
    for seed in (1, 2):  # whatever the new head of the base is
        torch.manual_seed(seed)
        assert same(load_delta(base_of_three(), PATH), task.model)


def test_the_head_of_a_base_that_has_one_is_not_stored_whole() -> None:
    torch.manual_seed(3)
    base = base_of_three()
    base.save_pretrained("base")
    task = sparse_task()
    checkpoint_of(task)
    export_delta("a.ckpt", PATH)
    assert len(load_file(PATH)["index:classifier.weight"]) == 1
    assert same(load_delta(base_of_three(), PATH), task.model)
    reset = AutoModelForSequenceClassification.from_pretrained("base", num_labels=2, ignore_mismatched_sizes=True)
    with pytest.raises(ConfigurationError, match=r"`classifier.weight` of shape \(3, 32\)\. Found \(2, 32\)"):
        load_delta(reset, PATH)


def test_tensors_of_another_shape_than_the_base_are_stored_whole() -> None:
    task = sparse_task()
    task.model.resize_token_embeddings(200)
    checkpoint_of(task)
    export_delta("a.ckpt", PATH)
    assert load_file(PATH)["whole:bert.embeddings.word_embeddings.weight"].shape == (200, 32)
    target = base_of_three()
    target.resize_token_embeddings(200)
    assert same(load_delta(target, PATH), task.model)


def test_labels_of_words() -> None:
    task, _, _ = fitted(words)
    export_delta("a.ckpt", PATH)
    base = AutoModelForTokenClassification.from_pretrained("base", num_labels=len(TAGS), dtype="float32")
    assert same(load_delta(base, PATH), task.model)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_base_stored_in_another_dtype(stored: torch.dtype) -> None:
    transformers.BertModel.from_pretrained("base", dtype=stored).save_pretrained("base")
    task = sparse_task()
    assert task.model.dtype == torch.float32
    checkpoint_of(task)
    export_delta("a.ckpt", PATH)
    assert len(load_file(PATH)["index:bert.embeddings.word_embeddings.weight"]) == 64
    assert same(load_delta(base_of_three(), PATH), task.model)
    if stored != torch.float32:
        with pytest.raises(ConfigurationError, match=r'Found bfloat16: load it with `dtype="float32"`'):
            load_delta(AutoModelForSequenceClassification.from_pretrained("base", num_labels=3), PATH)


def test_a_run_in_bfloat16_is_a_delta_to_the_base_in_bfloat16() -> None:
    task = sparse_task().bfloat16()
    checkpoint_of(task)
    export_delta("a.ckpt", PATH)
    assert len(load_file(PATH)["index:bert.embeddings.word_embeddings.weight"]) == 64
    base = AutoModelForSequenceClassification.from_pretrained("base", num_labels=3, dtype="bfloat16")
    assert same(load_delta(base, PATH), task.model)
    assert same(load_delta(base_of_three().bfloat16(), PATH), task.model)
    with pytest.raises(ConfigurationError, match=r'Found float32: load it with `dtype="bfloat16"`'):
        load_delta(base_of_three(), PATH)


def test_weights_that_are_not_finite() -> None:
    task = sparse_task()
    with torch.no_grad():
        weight = task.model.state_dict()["bert.encoder.layer.0.output.dense.weight"]
        weight[0, 0], weight[1, 1], weight[2, 2] = float("nan"), -0.0, float("-inf")
    checkpoint_of(task)
    export_delta("a.ckpt", PATH)
    assert same(load_delta(base_of_three(), PATH), task.model)


def test_a_task_that_trained_its_head_alone() -> None:
    data = classes()[1]
    torch.manual_seed(0)
    task = SequenceClassification("base", 3, HeadOnly(), optimizer=adam)
    run = trainer(max_steps=2, limit_val_batches=0)
    run.fit(task, data)
    run.save_checkpoint("a.ckpt")
    export_delta("a.ckpt", PATH)
    assert all(name.startswith(("whole:classifier", "whole:bert.pooler")) for name in load_file(PATH))
    assert same(load_delta(base_of_three(), PATH), task.model)


# ---------------------------------------------------------------- what is refused
def test_a_base_that_has_moved_can_be_named() -> None:
    task = sparse_task()
    checkpoint_of(task)
    Path("base").rename("moved")
    with pytest.raises(ConfigurationError, match=r"Found `model_name_or_path = base`"):
        export_delta("a.ckpt", PATH)
    assert not Path(PATH).exists()
    assert export_delta("a.ckpt", PATH, model_name_or_path="moved").base == "moved"
    Path("moved").rename("base")
    assert same(load_delta(base_of_three(), PATH), task.model)


def test_a_base_of_another_kind_is_refused() -> None:
    checkpoint_of(sparse_task())
    config = transformers.DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=1, hidden_dim=8)
    transformers.DistilBertModel(config).save_pretrained("other")
    with pytest.raises(
        ConfigurationError, match=r"`model_name_or_path = other`, which has none of the weights of `Bert"
    ):
        export_delta("a.ckpt", PATH, model_name_or_path="other")


def test_a_checkpoint_that_does_not_name_its_base() -> None:
    task = sparse_task()
    checkpoint_of(task)
    edit(lambda checkpoint: checkpoint.pop("hyper_parameters"))
    with pytest.raises(ConfigurationError, match="should name the base model of a checkpoint that does not"):
        export_delta("a.ckpt", PATH)
    export_delta("a.ckpt", PATH, model_name_or_path="base")
    assert same(load_delta(base_of_three(), PATH), task.model)


def test_a_checkpoint_of_release_0_1() -> None:
    task = sparse_task()
    checkpoint_of(task)
    edit(lambda checkpoint: checkpoint.pop("lightning_sparsegrad_model"))
    config = json.loads(Path("base/config.json").read_text())
    Path("base/config.json").write_text(json.dumps({**config, "dtype": "float16"}))  # not that of the weights
    export_delta("a.ckpt", PATH)
    assert len(load_file(PATH)["index:bert.embeddings.word_embeddings.weight"]) == 64
    assert same(load_delta(base_of_three(), PATH), task.model)


def test_what_is_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint_of(TokenClassification("base", TAGS, Identity()))
    Path("mine").write_text("mine")
    both = refused(capsys, "--ckpt_path=a.ckpt", "--output=out", f"--delta={PATH}")
    assert (
        f"One of the parameters `output` and `delta` should be given. Found `output = out` and `delta = {PATH}`" in both
    )
    assert "Found none" in refused(capsys, "--ckpt_path=a.ckpt")
    assert "Found `delta = mine`, which exists" in refused(capsys, "--ckpt_path=none.ckpt", "--delta=mine")
    assert "`tokenizer = t`" in refused(capsys, "--ckpt_path=a.ckpt", f"--delta={PATH}", "--tokenizer=t")
    for path in ("none.ckpt", "base", "mine"):
        assert f"Found `ckpt_path = {path}`" in refused(capsys, f"--ckpt_path={path}", f"--delta={PATH}")
    edit(lambda checkpoint: checkpoint["state_dict"].update({"model.a.lora_A.default.weight": torch.ones(1)}))
    assert "holds an adapter" in refused(capsys, "--ckpt_path=a.ckpt", f"--delta={PATH}")
    assert Path("mine").read_text() == "mine"
    assert not Path(PATH).exists()


# ---------------------------------------------------------------- the command
def test_the_command_says_how_to_load_the_delta(capsys: pytest.CaptureFixture[str]) -> None:
    fit_by_command()
    capsys.readouterr()
    main(["export", "--ckpt_path=a.ckpt", f"--delta={PATH}"])
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    size = Path(PATH).stat().st_size / 1e6
    assert re.search(rf"`{PATH}` has 25 of 25 tensors, ([\d,]+) of \1 entries, {size:.2f} of ", output)
    line = output.partition("Load it with ")[2]
    model = eval(line, {"transformers": transformers, "load_delta": load_delta})  # noqa: S307  # what a user types
    export_checkpoint("a.ckpt", "out")
    assert same(model, AutoModelForSequenceClassification.from_pretrained("out"))
    predicted, expected = (
        [
            each["score"]
            for each in pipeline("text-classification", each, tokenizer=AutoTokenizer.from_pretrained("out"))(TEXTS)
        ]
        for each in (model, "out")
    )
    assert predicted == pytest.approx(expected, rel=1e-6)
