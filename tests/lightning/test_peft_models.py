"""Adapters of PEFT as `model_name_or_path`: what trains, what is stored, what is refused."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from lightning_sparsegrad import (
    ConfigurationError,
    GradDrop,
    GradientTransform,
    GradualUnfreezing,
    HeadOnly,
    Identity,
    SequenceClassification,
)
from lightning_sparsegrad.hub._peft_adapters import tokenizer_source
from tests.cases import cases

from ..tiny import VOCABULARY, tiny_bert
from .tasks import assert_same_weights, trainer, weights
from .test_sequence_classification import CLASSES, batches, feed

HEAD = "model.classifier.modules_to_save.default"
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated"
)  # peft 0.21, transformers 5.23


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder without a head, in the folder in which adapters name it."""
    folder = tmp_path_factory.mktemp("models") / "base"
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model: Any = tiny_bert(num_hidden_layers=2, **still)
    model.bert.save_pretrained(folder)
    return folder


Save = Callable[..., str]


@pytest.fixture
def save(base: Path, tmp_path: Path) -> Save:
    peft = pytest.importorskip("peft")

    def of(kind: str = "LoraConfig", auto: Any = AutoModelForSequenceClassification, **settings: Any) -> str:
        """Save an adapter with weights that are not those it begins with, and return its folder."""
        labels = settings.pop("labels", CLASSES)
        dtype = settings.pop("dtype", "float32")
        defaults = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
        if kind == "LoraConfig":
            defaults["r"] = 2  # type: ignore[assignment]
        if kind == "PromptTuningConfig":
            del defaults["target_modules"]
        config = getattr(peft, kind)(**{**defaults, **settings})
        model = auto.from_pretrained(base, dtype=dtype, **({} if auto is AutoModel else {"num_labels": labels}))
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(tmp_path / "adapter")
        return str(tmp_path / "adapter")

    return of


def task_of(path: str, transform: GradientTransform | None = None, **arguments: Any) -> SequenceClassification:
    torch.manual_seed(0)  # a head that is new
    return SequenceClassification(path, CLASSES, transform or Identity(), **arguments)


def trained(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    model.train(mode=False)
    outputs: Tensor = model(input_ids=torch.arange(3, 15).reshape(2, 6) % VOCABULARY).logits
    return outputs


def fit(task: SequenceClassification, **arguments: Any) -> Any:
    run = trainer(**arguments)
    run.fit(task, feed(batches("classes")), feed(batches("classes")))
    return run


# ---------------------------------------------------------------- what trains
KINDS = {
    "lora": {},
    "biases": {"bias": "lora_only"},
    "dora": {"use_dora": True},
    "embeddings": {"modules_to_save": ["word_embeddings"]},
    "tokens": {"trainable_token_indices": [4, 5]},
    "ia3": {"kind": "IA3Config", "target_modules": ["key", "value"], "feedforward_modules": []},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_trains_and_is_the_one_that_peft_loads(save: Save, base: Path, kind: str) -> None:
    import peft  # type: ignore[import-not-found, unused-ignore]

    path = save(**KINDS[kind])  # type: ignore[arg-type]
    task = task_of(path)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=CLASSES)
    expected = peft.PeftModel.from_pretrained(model, path, is_trainable=True)
    assert {name.removeprefix("model.") for name in trained(task)} == {
        name.removeprefix("base_model.model.") for name in trained(expected)
    }
    assert torch.equal(logits(task.model), logits(expected))


@pytest.mark.parametrize("transform", [Identity(), GradDrop(0.3), HeadOnly(), GradualUnfreezing()], ids=repr)
def test_what_trains_moves_and_the_base_does_not(save: Save, transform: GradientTransform) -> None:
    task = task_of(save(), transform, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01))
    before = weights(task)
    assert f"{HEAD}.weight" in trained(task)
    fit(task, max_epochs=2)
    moved = {name for name, weight in weights(task).items() if not torch.equal(weight, before[name])}
    assert moved == ({f"{HEAD}.weight", f"{HEAD}.bias"} if isinstance(transform, HeadOnly) else trained(task))


@pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, AutoModel])
def test_a_head_that_is_new_trains_and_belongs_to_the_adapter(save: Save, tmp_path: Path, auto: Any) -> None:
    task = task_of(save(auto=auto, task_type=None))
    assert {f"{HEAD}.weight", f"{HEAD}.bias"} < trained(task)
    assert len(trained(task)) == 2 + 2 * 2 * 2
    task.model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(task_of(str(tmp_path / "again")).model), logits(task.model))


def test_a_folder_may_hold_the_base_as_well(save: Save, base: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    expected = logits(task_of(save()).model)
    copytree(base, both)
    copytree(tmp_path / "adapter", both, dirs_exist_ok=True)
    settings = json.loads((both / "adapter_config.json").read_text())
    (both / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "moved/away"}))
    task = task_of(str(both))
    assert len(trained(task)) == 10
    assert torch.equal(logits(task.model), expected)


# ---------------------------------------------------------------- in which dtype
def test_everything_is_float32(save: Save) -> None:
    task = task_of(save(dtype="bfloat16"))
    assert {parameter.dtype for parameter in task.parameters()} == {torch.float32}


def test_an_adapter_is_float32_on_a_base_in_half_precision(save: Save) -> None:
    task = task_of(save(), dtype="bfloat16")
    kinds = {(parameter.requires_grad, "lora" in name, parameter.dtype) for name, parameter in task.named_parameters()}
    assert kinds == {
        (False, False, torch.bfloat16),
        (True, True, torch.float32),
        (True, False, torch.bfloat16),  # the head, which is given what the base computes
    }
    fit(task)


# ---------------------------------------------------------------- what is stored
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_checkpoint_is_restored_tested_and_resumed(save: Save, tmp_path: Path) -> None:
    path, file = save(), tmp_path / "last.ckpt"
    whole = task_of(path, GradDrop(0.3))
    fit(whole, max_epochs=2)
    task = task_of(path, GradDrop(0.3))
    fit(task).save_checkpoint(file)
    loaded = SequenceClassification.load_from_checkpoint(file, gradient_transform=Identity())
    assert_same_weights(weights(loaded), weights(task))
    assert trained(loaded) == trained(task)
    tested: Any = task_of(path)
    trainer().test(tested, feed(batches("classes")), ckpt_path=file, verbose=False)
    assert_same_weights(weights(tested), weights(task))
    resumed = task_of(path, GradDrop(0.3))
    trainer(max_epochs=2).fit(resumed, feed(batches("classes")), feed(batches("classes")), ckpt_path=file)
    assert_same_weights(weights(resumed), weights(whole))


def test_what_was_trained_is_saved_as_an_adapter_of_the_same_base(save: Save, base: Path, tmp_path: Path) -> None:
    task = task_of(save())
    fit(task)
    task.model.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "model.safetensors").exists()
    settings = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    assert torch.equal(logits(task_of(str(tmp_path / "again")).model), logits(task.model))


def test_the_tokenizer_is_that_of_the_base(save: Save, base: Path, tmp_path: Path) -> None:
    path = save()
    assert tokenizer_source(path) == str(base)
    (tmp_path / "adapter" / "tokenizer_config.json").write_text("{}")
    assert tokenizer_source(path) == path
    assert tokenizer_source(str(base)) == str(base)
    assert tokenizer_source("org/model") == "org/model"


# ---------------------------------------------------------------- what is refused
def refused(path: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        task_of(path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def plain(base: Path, tmp_path: Path) -> Path:
    """The file that makes a folder an adapter, where PEFT need not be installed."""
    (tmp_path / "plain").mkdir()
    file = tmp_path / "plain" / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)}))
    return file


@pytest.mark.parametrize("missing", ["peft", "accelerate"])
def test_without_peft_it_is_said_what_to_install(plain: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing != "peft":
        pytest.importorskip("peft")
        for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    path = str(plain.parent)
    install = re.escape("pip install lightning-sparsegrad[peft]")
    message = rf"not installed \(`{install}`\)\. Found `{path}`, which is an adapter, and no `{missing}`\.$"
    refused(path, message)


@cases("text", ["{", "[]", "{}", '{"base_model_name_or_path": null}'])
def test_an_adapter_of_no_base(plain: Path, text: str) -> None:
    pytest.importorskip("peft")
    plain.write_text(text)
    refused(
        str(plain.parent), f"^`({plain}` should be a JSON object|base_model_name_or_path` in `{plain}` should name)"
    )


def test_a_base_that_is_not_there(plain: Path) -> None:
    pytest.importorskip("peft")
    plain.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "./gone"}))
    refused(str(plain.parent), rf"^`base_model_name_or_path` in `{plain}` should be .* Found `\./gone`: ")


def test_an_adapter_without_weights(plain: Path) -> None:
    pytest.importorskip("peft")
    plain.write_text(json.dumps({**json.loads(plain.read_text()), "target_modules": ["query"]}))
    refused(
        str(plain.parent), f"^`{plain.parent}` should hold `adapter_model.safetensors`, or no `adapter_config.json`"
    )


def test_a_kind_of_adapter_that_peft_does_not_know(plain: Path) -> None:
    pytest.importorskip("peft")
    plain.write_text(json.dumps({**json.loads(plain.read_text()), "peft_type": "FUTURE"}))
    refused(str(plain.parent), "should name an adapter that fits its base model.*FUTURE")


def test_an_adapter_for_another_number_of_labels(save: Save, base: Path) -> None:
    refused(
        save(labels=CLASSES + 1), f"`{base}` for `num_labels = {CLASSES}`. Found .*: .*size mismatch for classifier"
    )


def test_an_adapter_for_another_task(save: Save) -> None:
    path = save(auto=AutoModelForTokenClassification, task_type="TOKEN_CLS")
    refused(path, f"should name an adapter for SEQ_CLS, .* Found `{path}`, which was trained for TOKEN_CLS: ")


def test_prompts_are_no_weights_of_a_model(save: Save) -> None:
    refused(save("PromptTuningConfig", num_virtual_tokens=3), "does not support prompt learning")


def test_weights_that_are_missing(save: Save) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(save())
    file = path / "adapter_model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if "layer.1" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    refused(str(path), rf"^Adapter `{path}` should hold all weights that it trains\. Found 4 missing, `bert\.encoder\.")


def test_weights_without_a_place_are_told_of(save: Save) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(save())
    file = path / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.lm_head.weight": torch.ones(2)}, file, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"^1 tensors of adapter .* do not belong to `BertForSequenceClassification`"):
        task_of(str(path))
