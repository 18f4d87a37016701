"""The model of the benchmarks, an encoder with random weights, and a batch for it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """Size of an encoder and of its batch.

    Args:
        hidden: Width.
        layers: Number of blocks.
        heads: Number of attention heads.
        intermediate: Width of the feed-forward layers.
        vocabulary: Number of tokens in the vocabulary.
        examples: Sequences in a batch.
        tokens: Tokens in a sequence.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    examples: int
    tokens: int


MINILM = Size(hidden=384, layers=6, heads=12, intermediate=1536, vocabulary=30522, examples=16, tokens=64)
"""MiniLM-L6: 22.7M parameters, of which more than half are word embeddings."""

SMALL = Size(hidden=96, layers=4, heads=4, intermediate=384, vocabulary=8000, examples=8, tokens=32)
"""The size with `--quick`."""


def build_model(size: Size, device: torch.device, *, seed: int = 0) -> nn.Module:
    """Build a classifier in training mode, with BERT's dropout."""
    config = BertConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.intermediate,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = BertForSequenceClassification(config)
    return model.to(device).train()


def make_batch(size: Size, device: torch.device, *, seed: int = 0) -> Batch:
    """Draw a batch of tokens and labels."""
    generator = torch.Generator().manual_seed(seed)
    batch = {
        "input_ids": torch.randint(size.vocabulary, (size.examples, size.tokens), generator=generator),
        "attention_mask": torch.ones(size.examples, size.tokens, dtype=torch.int64),
        "labels": torch.randint(2, (size.examples,), generator=generator),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def run_backward(model: nn.Module, batch: Batch) -> None:
    """Run one forward and backward pass, which adds to existing gradients."""
    model(**batch).loss.backward()


def gradients_of(model: nn.Module) -> list[Tensor]:
    """Return the existing gradients, in the order of the parameters."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of clips, derived from one gradient.

    Args:
        all: A norm that clips every tensor.
        few: A norm that clips the tensors with the largest norms, with at most a tenth of all entries.
        tenth: A norm that clips the tenth of the tensors with the largest norms; word embeddings are often among them,
            so that most entries are clipped.
        value: A value that clips a few entries.
    """

    all: float
    few: float
    tenth: float
    value: float


def find_thresholds(gradients: list[Tensor]) -> Thresholds:
    """Find thresholds that clip all or few of the tensors; tensors with a zero gradient are never clipped."""
    norms, order = torch.stack(torch._foreach_norm(gradients)).cpu().sort(descending=True)
    entries = torch.tensor([gradient.numel() for gradient in gradients])[order].cumsum(0)
    clipped = int((entries <= 0.1 * entries[-1]).sum())
    # half way to the next norm, and a tenth of the smallest, since dropout changes the norms from step to step
    few = float(norms[clipped - 1] + norms[clipped]) / 2 if clipped else 2 * float(norms[0])
    tenth = float(norms.quantile(0.9))
    return Thresholds(all=float(norms[norms > 0].min()) / 10, few=few, tenth=tenth, value=tenth / 100)


def put_gradients(model: nn.Module, device: torch.device) -> None:
    """Give every trainable parameter a dense random gradient, without a backward pass."""
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        gradient = torch.empty_like(parameter).normal_(generator=generator)
        parameter.grad = gradient if parameter.requires_grad else None


def make_case(size: Size, device: torch.device) -> tuple[nn.Module, Thresholds]:
    """Return the model and thresholds for its gradients."""
    model = build_model(size, device)
    put_gradients(model, device)
    thresholds = find_thresholds(gradients_of(model))
    model.zero_grad()
    return model, thresholds
