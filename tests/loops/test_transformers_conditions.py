"""The Trainer of transformers with what its users turn on: activation checkpointing, compilation, adapters of PEFT."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lightning_sparsegrad import GradDrop, GradientTransform, GradualUnfreezing, HeadOnly, LayerGradDrop
from tests.cases import cases
from tests.loops.transformers_runs import DOORS, Recorder, engine_of, in_plain_loop, made, weights
from tests.tiny import tiny_llama
from tests.transforms.small import assert_same_bits

pytestmark = pytest.mark.long
LAYERS: list[GradientTransform] = [HeadOnly(), LayerGradDrop(0.5), GradualUnfreezing(unfreeze_every=2)]


class Skips(Recorder):
    """A record of how many tensors are not computed, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: list[int] = []

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.skipped.append(sum(not parameter.requires_grad for parameter in kwargs["model"].parameters()))


def trained(door: str, strategy: GradientTransform, folder: Path, **given: Any) -> tuple[dict[str, Tensor], list[int]]:
    """Return the weights at the end, and how many tensors were not computed in each window."""
    skips = Skips()
    trainer = made(door, strategy, folder, callbacks=[skips], **given)
    trainer.train()
    assert engine_of(trainer).step == 8
    return weights(trainer.model), skips.skipped


@cases("door", DOORS)
@cases("strategy", LAYERS, ids=str)
@cases("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(
    door: str, strategy: GradientTransform, reentrant: bool, tmp_path: Path
) -> None:
    options = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": reentrant}}
    ends, skipped = trained(door, strategy, tmp_path, **options)
    assert_same_bits(ends, in_plain_loop(strategy))
    assert any(skipped)


@cases("strategy", [GradDrop(0.5), HeadOnly()], ids=str)
def test_a_compiled_model_trains_alike_whether_or_not_the_callback_is_attached(
    strategy: GradientTransform, tmp_path: Path
) -> None:
    compiled = {"torch_compile": True, "torch_compile_backend": "eager"}
    ends = []
    for attach, why in (
        (True, "one compiled region holds"),
        (False, r"`TransformersCallback.attach\(trainer\)` gives"),
    ):
        with pytest.warns(UserWarning, match=why) if isinstance(strategy, HeadOnly) else nullcontext():
            end, skipped = trained("callback", strategy, tmp_path, attach=attach, **compiled)
        assert not any(skipped)
        ends.append(end)
    assert_same_bits(*ends)


def with_lora(**options: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_llama()
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)
        adapted: nn.Module = get_peft_model(model, config, autocast_adapter_dtype=False)
    return adapted


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT 0.21 asks transformers for it
@cases("door", DOORS)
@cases("strategy", [*LAYERS, GradDrop(0.5)], ids=str)
@cases("options", [{}, {"modules_to_save": ["lm_head"]}], ids=["adapters alone", "with the head"])
def test_adapters_of_peft_train_as_in_a_plain_loop(
    door: str, strategy: GradientTransform, options: dict[str, Any], tmp_path: Path
) -> None:
    ends, skipped = trained(door, strategy, tmp_path, model=with_lora(**options))
    assert_same_bits(ends, in_plain_loop(strategy, with_lora(**options)))
    before = weights(with_lora(**options))
    changed = {name for name, weight in ends.items() if not weight.equal(before[name])}
    assert changed
    assert all("lora_" in name or "modules_to_save" in name for name in changed)
    frozen = sum(not parameter.requires_grad for parameter in with_lora(**options).parameters())
    assert (max(skipped) > frozen) == (strategy in LAYERS)
