"""Models in which something trains in some layers alone: frozen heads, adapters, models without a head."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from torch import nn
from transformers import AutoModel

from tests import tiny

EMBEDDINGS, HEAD = "embeddings", "head"


def adapted(model: nn.Module, kind: str = "LoraConfig", **settings: Any) -> nn.Module:
    """Return a model with adapters: of LoRA of rank 2, if nothing else is said."""
    peft = pytest.importorskip("peft")
    defaults = {"r": 2, "target_modules": ["q_proj"]} if kind == "LoraConfig" else {}
    adapters: nn.Module = peft.get_peft_model(model, getattr(peft, kind)(**{**defaults, **settings}))
    return adapters


def frozen(model: nn.Module, *prefixes: str) -> nn.Module:
    """Return a model in which the parameters with one of some prefixes do not train."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))
    return model


def llama(**settings: Any) -> nn.Module:
    return adapted(tiny.tiny_llama(tie_word_embeddings=settings.pop("tied", False)), **settings)


def language(**settings: Any) -> nn.Module:
    return llama(task_type="CAUSAL_LM", num_virtual_tokens=2, **settings)


def blocks(*numbers: int) -> tuple[str, ...]:
    return tuple(f"block {number}" for number in numbers)


# Model -> (how it is made, the layers in which something trains, bottom first: the last one is or stands for the head)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "llama": (tiny.tiny_llama, (EMBEDDINGS, *blocks(0, 1, 2), HEAD)),
    "llama, tied": (lambda: tiny.tiny_llama(tie_word_embeddings=True), (EMBEDDINGS, *blocks(0, 1, 2), HEAD)),
    "gpt2, frozen head": (
        lambda: frozen(tiny.tiny_gpt2(tie_word_embeddings=False), "lm_head"),
        (EMBEDDINGS, *blocks(0, 1, 2)),
    ),
    "gpt2, tied and frozen": (lambda: frozen(tiny.tiny_gpt2(), "transformer.wte"), (EMBEDDINGS, *blocks(0, 1, 2))),
    "bert, two layers frozen": (
        lambda: frozen(tiny.tiny_bert(), "bert.embeddings", "bert.encoder.layer.1"),
        (*blocks(0, 2), HEAD),
    ),
    "bert, frozen head": (
        lambda: frozen(tiny.tiny_bert(), "bert.pooler", "classifier"),
        (EMBEDDINGS, *blocks(0, 1, 2)),
    ),
    "an encoder": (lambda: tiny.tiny_bert().get_submodule("bert.encoder"), blocks(0, 1, 2)),
    "llama without a head": (
        lambda: tiny.build(AutoModel.from_config, tiny.tiny_llama().config),
        (EMBEDDINGS, *blocks(0, 1, 2)),
    ),
    "t5, frozen embeddings, which are the head": (lambda: frozen(tiny.tiny_t5(), "shared"), blocks(0, 1, 2, 3, 4)),
    "LoRA": (llama, blocks(0, 1, 2)),
    "LoRA on tied weights": (lambda: llama(tied=True), blocks(0, 1, 2)),
    "LoRA on a part of the layers": (lambda: llama(layers_to_transform=[0, 1]), blocks(0, 1)),
    "LoRA on one layer": (lambda: llama(layers_to_transform=[1]), blocks(1)),
    "LoRA on the head": (lambda: llama(target_modules=["q_proj", "lm_head"]), (*blocks(0, 1, 2), HEAD)),
    "LoRA on the embeddings": (
        lambda: llama(target_modules=["q_proj", "embed_tokens"]),
        (EMBEDDINGS, *blocks(0, 1, 2)),
    ),
    "LoRA and the head": (lambda: llama(modules_to_save=["lm_head"]), (*blocks(0, 1, 2), HEAD)),
    "LoRA and the final norm": (
        lambda: llama(modules_to_save=["model.norm"], layers_to_transform=[0]),
        blocks(0, 2),
    ),
    "LoRA and tokens": (lambda: llama(trainable_token_indices=[1, 2]), (EMBEDDINGS, *blocks(0, 1, 2))),
    "LoRA and tied tokens": (
        lambda: llama(tied=True, trainable_token_indices=[1, 2]),
        (EMBEDDINGS, *blocks(0, 1, 2), HEAD),
    ),
    "DoRA": (lambda: llama(use_dora=True), blocks(0, 1, 2)),
    "LoRA and all biases": (
        lambda: adapted(tiny.tiny_gpt2(), target_modules=["c_attn"], bias="all", fan_in_fan_out=True),
        blocks(0, 1, 2),
    ),
    "LoRA and a classifier": (
        lambda: adapted(tiny.tiny_bert(), target_modules=["query"], task_type="SEQ_CLS"),
        (*blocks(0, 1, 2), HEAD),
    ),
    "LoRA and a head with a norm": (
        lambda: adapted(
            tiny.tiny_modernbert(), target_modules=["Wqkv"], layers_to_transform=[0], modules_to_save=["head"]
        ),
        (*blocks(0), HEAD),
    ),
    "LoRA behind the last block": (
        lambda: adapted(tiny.tiny_opt(), target_modules=["project_out", "q_proj"], layers_to_transform=None),
        blocks(0, 1, 2),
    ),
    "LoRA on an encoder and a decoder": (
        lambda: adapted(tiny.tiny_t5(), target_modules=["q"]),
        blocks(0, 1, 2, 3, 4),
    ),
    "LoRA without a head": (
        lambda: adapted(tiny.tiny_bert().get_submodule("bert.encoder"), target_modules=["query"]),
        blocks(0, 1, 2),
    ),
    "IA3": (
        lambda: llama(kind="IA3Config", target_modules=["k_proj"], feedforward_modules=[]),
        blocks(0, 1, 2),
    ),
    "prompt tuning": (lambda: language(kind="PromptTuningConfig"), (HEAD,)),
    "p-tuning": (lambda: language(kind="PromptEncoderConfig", encoder_hidden_size=8), (HEAD,)),
    "prefix tuning": (lambda: language(kind="PrefixTuningConfig"), (HEAD,)),
}


@cache
def model_of(name: str) -> nn.Module:
    """Return a model of the table, for tests that change no weight of it."""
    return MODELS[name][0]()
