"""Weights are float32, however a model is stored, unless another dtype is asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_sparsegrad import ConfigurationError, GradDrop, Identity, SequenceClassification
from lightning_sparsegrad.loops._divergence import DivergenceWarning
from lightning_sparsegrad.modules._pretrained import DType
from tests.cases import cases

from ..tiny import tiny_bert
from .tasks import assert_same_weights, trainer, weights
from .test_sequence_classification import CLASSES, batches, feed

STORED = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def stored(folder: Path, dtype: torch.dtype) -> str:
    """Save a model in a dtype."""
    path = str(folder / str(dtype))
    tiny_bert(num_labels=CLASSES, num_hidden_layers=1).to(dtype).save_pretrained(path)  # type: ignore[operator]
    return path


def task_of(path: str, **arguments: Any) -> SequenceClassification:
    return SequenceClassification(path, CLASSES, Identity(), **arguments)


def dtypes(task: SequenceClassification) -> set[torch.dtype]:
    tensors = [*task.parameters(), *task.buffers()]
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


@cases("dtype", STORED)
def test_weights_are_float32_and_those_that_were_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    path = stored(tmp_path, dtype)
    task = task_of(path)
    assert dtypes(task) == {torch.float32}
    assert task.model.config.dtype == torch.float32
    expected = {f"model.{name}": tensor.float() for name, tensor in load_file(Path(path, "model.safetensors")).items()}
    assert_same_weights(weights(task), expected)


def test_single_tensors_in_other_dtypes_are_converted_as_well(tmp_path: Path) -> None:
    path = stored(tmp_path, torch.bfloat16)
    file = Path(path, "model.safetensors")
    tensors: dict[str, Tensor] = load_file(file)
    mixed = [torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn]
    for (name, tensor), dtype in zip(list(tensors.items()), mixed, strict=False):
        tensors[name] = tensor.to(dtype)
    save_file(tensors, file, metadata={"format": "pt"})
    task = task_of(path)
    assert dtypes(task) == {torch.float32}
    assert_same_weights(weights(task), {f"model.{name}": tensor.float() for name, tensor in tensors.items()})


@cases(("asked", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_another_dtype_may_be_asked_for(tmp_path: Path, asked: DType, dtype: torch.dtype) -> None:
    assert dtypes(task_of(stored(tmp_path, torch.float32), dtype=asked)) == {dtype}


@cases("dtype", STORED)
def test_auto_keeps_what_is_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    assert dtypes(task_of(stored(tmp_path, dtype), dtype="auto")) == {dtype}


def test_the_precision_of_the_trainer_converts_the_module(tmp_path: Path) -> None:
    task = task_of(stored(tmp_path, torch.float32))
    trainer(precision="bf16-true").fit(task, feed(batches("classes")), feed(batches("classes")))
    assert dtypes(task) == {torch.bfloat16}


@cases("dtype", ["int8", "half", torch.bfloat16, None])
def test_a_dtype_that_is_none(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^Parameter `dtype` should be one of 'float32', .* Found `dtype = "):
        task_of(stored(tmp_path, torch.float32), dtype=dtype)


def test_a_small_learning_rate_moves_a_model_stored_in_half_precision(tmp_path: Path) -> None:
    task = task_of(stored(tmp_path, torch.bfloat16))
    before = weights(task)
    trainer(max_epochs=2).fit(task, feed(batches("classes")))
    name = "model.bert.encoder.layer.0.attention.self.query.weight"
    assert (weights(task)[name] != before[name]).float().mean() > 0.99


# ---------------------------------------------------------------- checkpoints
def test_a_checkpoint_in_half_precision_is_loaded_as_float32(tmp_path: Path) -> None:
    path, file = stored(tmp_path, torch.bfloat16), tmp_path / "last.ckpt"
    task = task_of(path, dtype="auto")
    run = trainer()
    run.fit(task, feed(batches("classes")))
    run.save_checkpoint(file)
    checkpoint = torch.load(file, weights_only=True)
    del checkpoint["hyper_parameters"]["dtype"]  # as checkpoints of 0.1 are
    torch.save(checkpoint, file)
    loaded = SequenceClassification.load_from_checkpoint(file, gradient_transform=Identity())
    assert dtypes(loaded) == {torch.float32}
    assert_same_weights(weights(loaded), {name: tensor.float() for name, tensor in weights(task).items()})


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_fit_says_that_the_dtype_is_another(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path, file = stored(tmp_path, torch.bfloat16), tmp_path / "last.ckpt"
    run = trainer()
    run.fit(task_of(path, dtype="auto"), feed(batches("classes")))
    run.save_checkpoint(file)
    recwarn.clear()
    trainer(max_epochs=2).fit(task_of(path, dtype="auto"), feed(batches("classes")), ckpt_path=file)
    trainer(max_epochs=2, precision="bf16-true").fit(task_of(path), feed(batches("classes")), ckpt_path=file)
    assert not [w for w in recwarn if "checkpoint stores" in str(w.message)]
    resumed = task_of(path)
    sentence = r"^Weights that the checkpoint stores in bfloat16 now train in float32\. .*set `dtype='bfloat16'`"
    with pytest.warns(UserWarning, match=sentence):
        trainer(max_epochs=2).fit(resumed, feed(batches("classes")), ckpt_path=file)
    assert dtypes(resumed) == {torch.float32}
    optimizer: Any = resumed.optimizers(use_pl_optimizer=False)
    assert {state["exp_avg"].dtype for state in optimizer.state.values()} == {torch.float32}


def test_hyperparameters_hold_the_dtype(tmp_path: Path) -> None:
    task = SequenceClassification(stored(tmp_path, torch.float32), CLASSES, GradDrop(0.1), dtype="bfloat16")
    assert task.hparams["dtype"] == "bfloat16"


def test_weights_in_float16_that_diverge_are_named_as_the_reason(tmp_path: Path) -> None:
    task = task_of(stored(tmp_path, torch.float32), dtype="float16")
    with pytest.warns(DivergenceWarning, match="Weights in float16 overflow; those in float32 with `precision="):
        trainer(max_epochs=2).fit(task, feed(batches("classes")))
