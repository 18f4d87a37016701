"""Small models to train, and their structure written by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.layout import Layout
from tests.tiny import tiny_bert, tiny_gpt2
from tests.transforms.small import Small, layout_of

VOCABULARY = 20
_SIZE = {"vocab_size": VOCABULARY}
_BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@dataclass(frozen=True)
class Subject:
    """A model to train.

    Args:
        build: Makes it, with the same weights every time.
        loss: The loss of one micro-batch, drawn from a generator.
        layout: What it is made of.
        layers: Globs that say what each layer is, bottom first.
        head: Globs that say what the head is.
    """

    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, torch.Generator], Tensor]
    layout: Callable[[nn.Module], Layout]
    layers: Sequence[str]
    head: Sequence[str]


# ---------------------------------------------------------------- the small model
def _small(*, tied: bool, permuted: bool) -> Small:
    model = Small(tied=tied, permuted=permuted)
    for block in model.blocks:
        block.attention.batch_first = False  # type: ignore[union-attr]  # else kernels depend on what needs a gradient
    return model


def _small_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    tokens = torch.randint(0, 7, (2, 5), generator=generator)
    return cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, dims=1).flatten())


def _small_layout(model: nn.Module) -> Layout:
    assert isinstance(model, Small)
    return layout_of(model)


def _small_subject(*, tied: bool, permuted: bool) -> Subject:
    return Subject(
        build=lambda: _small(tied=tied, permuted=permuted),
        loss=_small_loss,
        layout=_small_layout,
        layers=("embeddings.*", "blocks.0.*", "*norm.*", "blocks.1.*"),
        head=("head.bias", "temperature"),
    )


# ---------------------------------------------------------------- tensors large enough for other kernels
class Wide(nn.Module):
    """A matrix of embeddings of which few rows have a gradient, and a block of large matrices."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embeddings = nn.Embedding(4200, 3)
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(3, 2800), nn.Tanh(), nn.Linear(2800, 3))])
            self.head = nn.Linear(3, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens)
        logits: Tensor = self.head(x + self.blocks[0](x))
        return logits


def _wide_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    tokens = torch.randint(0, 4200, (2, 5), generator=generator)
    return cross_entropy(model(tokens).flatten(0, 1), tokens.flatten() % 5)


def _wide_layout(model: nn.Module) -> Layout:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    depth = {"embeddings": 0, "blocks": 1, "head": 2}
    return Layout(shapes, {name: frozenset({depth[name.split(".")[0]]}) for name in shapes}, head=2, fused={})


# ---------------------------------------------------------------- Hugging Face
def _bert_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    tokens = torch.randint(3, VOCABULARY, (2, 6), generator=generator)
    loss: Tensor = model(input_ids=tokens, labels=torch.randint(0, 2, (2,), generator=generator)).loss
    return loss


def _bert_layout(model: nn.Module) -> Layout:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    def depth(name: str) -> int:
        if name.startswith("bert.embeddings."):
            return 0
        return int(name.split(".")[3]) + 1 if name.startswith("bert.encoder.layer.") else 3

    return Layout(shapes, {name: frozenset({depth(name)}) for name in shapes}, head=3, fused={})


def _gpt2_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    tokens = torch.randint(3, VOCABULARY, (2, 6), generator=generator)
    loss: Tensor = cross_entropy(model(input_ids=tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    return loss


def _gpt2_layout(model: nn.Module) -> Layout:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    tied = "transformer.wte.weight"

    def depth(name: str) -> int:
        if name.startswith("transformer.h."):
            return int(name.split(".")[2]) + 1
        return 2 if name.startswith("transformer.ln_f.") else 0

    projections = [name for name in shapes if ".c_attn." in name]
    return Layout(
        shapes,
        {name: frozenset({0, 3} if name == tied else {depth(name)}) for name in shapes},
        head=3,
        fused={name: [("query", 16), ("key", 16), ("value", 16)] for name in projections},
        columns=[name for name in projections if name.endswith("weight")],
        roles={tied: {tied: 0, "lm_head.weight": 3}},
    )


SUBJECTS = {
    "small": _small_subject(tied=False, permuted=False),
    "small, tied": _small_subject(tied=True, permuted=False),
    "small, permuted": _small_subject(tied=False, permuted=True),
    "wide": Subject(
        build=Wide,
        loss=_wide_loss,
        layout=_wide_layout,
        layers=("embeddings.*", "blocks.0.0.*", "blocks.0.2.*"),
        head=("head.*",),
    ),
    "BERT": Subject(
        build=lambda: tiny_bert(**_SIZE, **_BERT, max_position_embeddings=8),
        loss=_bert_loss,
        layout=_bert_layout,
        layers=("bert.embeddings.*", "*.layer.0.*", "*.layer.1.*"),
        head=("classifier.*",),
    ),
    "GPT-2": Subject(
        build=lambda: tiny_gpt2(**_SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=8),
        loss=_gpt2_loss,
        layout=_gpt2_layout,
        layers=("transformer.w?e.weight", "*.h.0.*", "*.h.1.*", "*.ln_f.*"),
        head=("lm_head.*", "*.ln_f.*"),
    ),
}
_SHARES = (4, 3, 3, 1, 1, 1)  # the small model trains ten times as fast as most


def draw_subject(rng: Random) -> str:
    return rng.choices(list(SUBJECTS), _SHARES)[0]
