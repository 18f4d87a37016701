"""Models in the shape of real ones, with random weights, and a batch for each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from benchmarks.models import Batch

MIXED = "bf16-mixed"  # float32 weights and gradients, a forward pass under autocast
TRUE = "bf16-true"  # weights and gradients in bfloat16
FULL = "float32"


@dataclass(frozen=True)
class Shape:
    """A model and the batch of a step.

    Args:
        name: Its name.
        make: Returns the model, given changes of its size.
        vocabulary: Number of tokens in the vocabulary.
        examples: Sequences in a batch.
        tokens: Tokens in a sequence.
        is_decoder: Whether the labels are the tokens.
    """

    name: str
    make: Callable[..., nn.Module]
    vocabulary: int
    examples: int
    tokens: int
    is_decoder: bool = False


def _bert(**size: Any) -> nn.Module:
    return BertForSequenceClassification(BertConfig(**size))


def _xlm_r(**size: Any) -> nn.Module:
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return XLMRobertaForSequenceClassification(
        XLMRobertaConfig(**{"vocab_size": 250002, "max_position_embeddings": 514, **special, **large, **size})
    )


def _llama(**size: Any) -> nn.Module:
    one_billion = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
    rest = {"vocab_size": 128256, "intermediate_size": 8192, "tie_word_embeddings": True, "use_cache": False}
    return LlamaForCausalLM(LlamaConfig(**{**one_billion, **rest, **size}))


BERT = Shape("BERT-base", _bert, 30522, 32, 128)
XLM_R = Shape("XLM-R Large", _xlm_r, 250002, 32, 256)
LLAMA = Shape("Llama 1B", _llama, 128256, 4, 1024, is_decoder=True)

_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_FEW_TOKENS = 512


def build(shape: Shape, precision: str, device: torch.device, *, quick: bool) -> tuple[nn.Module, Batch]:
    """Return a model in training mode, and a batch.

    Args:
        shape: The shape.
        precision: `MIXED`, `TRUE` or `FULL`.
        device: Where to build them.
        quick: Make both tiny, to check that everything runs.
    """
    size: dict[str, Any] = _TINY | {"vocab_size": _FEW_TOKENS} if quick else {}
    if quick and shape.is_decoder:
        size["num_key_value_heads"] = 1
    with torch.device(device):
        torch.manual_seed(0)
        model = shape.make(**size).train()
    if precision == TRUE:
        model.to(torch.bfloat16)
    if precision == MIXED:
        model.forward = torch.autocast(device.type, torch.bfloat16)(model.forward)  # as loops do
    return model, _batch(shape, device, quick=quick)


def _batch(shape: Shape, device: torch.device, *, quick: bool) -> Batch:
    generator = torch.Generator().manual_seed(0)
    examples, tokens, vocabulary = (2, 16, _FEW_TOKENS) if quick else (shape.examples, shape.tokens, shape.vocabulary)
    ids = torch.randint(3, vocabulary, (examples, tokens), generator=generator)
    labels = ids if shape.is_decoder else torch.randint(2, (examples,), generator=generator)
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device), "labels": labels.to(device)}
