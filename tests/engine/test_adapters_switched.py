"""Adapters of PEFT that are switched off and on within a window, as for a reference model."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.optim import SGD

from lightning_sparsegrad import GradientEngine, HeadOnly
from tests.cases import cases
from tests.tiny import tiny_llama
from tests.transforms.small import assert_same_bits


def trained(*, skip_dropped: bool, reentrant: bool) -> tuple[dict[str, Tensor], set[str]]:
    """Return the weights after some steps, and the tensors whose gradients were computed in the last one."""
    torch.manual_seed(0)
    inner: Any = tiny_llama()
    model: Any = get_peft_model(inner, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.train()
    optimizer = SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    engine = GradientEngine(model, HeadOnly(), skip_dropped=skip_dropped)
    tokens = torch.arange(3, 15).view(2, 6)
    computed: set[str] = set()
    for _ in range(3):
        with engine.window():
            logits = model(tokens).logits
            with torch.no_grad(), model.disable_adapter():  # which sets `requires_grad` of all adapters at its end
                reference = model(tokens).logits
            (logits - 2 * reference).square().mean().backward()
            computed = {name for name, tensor in model.named_parameters() if tensor.grad is not None}
            engine.apply_()
        optimizer.step()
        optimizer.zero_grad()
        assert sum(tensor.requires_grad for tensor in model.parameters()) == 12
        assert not any(module._forward_pre_hooks for module in model.modules() if "lora" in type(module).__module__)
    return {name: tensor.detach() for name, tensor in model.named_parameters()}, computed


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the reference model has no graph
@cases("reentrant", [False, True])
def test_the_weights_are_the_same_where_work_is_skipped(reentrant: bool) -> None:
    weights, computed = trained(skip_dropped=True, reentrant=reentrant)
    whole, everything = trained(skip_dropped=False, reentrant=reentrant)
    assert_same_bits(weights, whole)
    assert len(everything) == 12
    assert len(computed) == 4
