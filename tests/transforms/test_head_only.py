"""HeadOnly: the head trains alone."""

from typing import Any

import pytest
from torch import nn

from lightning_sparsegrad import ConfigurationError, GradientEngine, HeadOnly
from tests.cases import cases
from tests.tiny import tiny_bert, tiny_gpt2, tiny_gpt2_classifier
from tests.transforms.small import apply, fill_gradients, trained


def _trained(model: nn.Module, transform: HeadOnly) -> set[str]:
    engine = GradientEngine(model, transform)
    fill_gradients(model)
    apply(engine, 3)
    return trained(model)


POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
CLASSIFIER = {"classifier.weight", "classifier.bias"}


@cases(
    ("transform", "expected"),
    [
        (HeadOnly(), POOLER | CLASSIFIER),
        (HeadOnly(head="classifier.*"), CLASSIFIER),
        (HeadOnly(head=["classifier.weight"]), {"classifier.weight"}),
        (HeadOnly(layers=["bert.*"]), CLASSIFIER),
        (HeadOnly(layers=["bert.embeddings.*", "bert.encoder.*"]), POOLER | CLASSIFIER),
    ],
    ids=str,
)
def test_what_lies_behind_the_last_block_trains_alone(transform: HeadOnly, expected: set[str]):
    assert _trained(tiny_bert(), transform) == expected


def test_a_final_norm_is_no_part_of_the_head():
    assert _trained(tiny_gpt2_classifier(), HeadOnly()) == {"score.weight"}


def test_a_tied_embedding_is_part_of_the_head():
    assert _trained(tiny_gpt2(), HeadOnly()) == {"transformer.wte.weight"}


def test_the_kept_share_is_that_of_the_head():
    model = tiny_bert()
    engine = GradientEngine(model, HeadOnly())
    fill_gradients(model)
    apply(engine, 0)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    expected = sum(sizes[name] for name in POOLER | CLASSIFIER) / sum(sizes.values())
    assert float(engine.statistics["kept"]) == pytest.approx(expected)


@cases(
    ("make", "transform", "message"),
    [
        (
            lambda: nn.Linear(2, 2),
            HeadOnly(),
            "Parameter `layers` should be given for a model whose blocks cannot be found: one pattern per layer, "
            "bottom first. Found no list of blocks in `Linear`.",
        ),
        (
            tiny_bert,
            HeadOnly(head="clasifier.*"),
            "Parameter `head` should hold patterns that match a parameter name. Found `clasifier.*`, which",
        ),
        (tiny_bert, HeadOnly(head="clasifier.*"), "Near matches: `classifier."),
        (
            tiny_bert,
            HeadOnly(layers=["bert.*", "encoder.*"]),
            "Parameter `layers` should hold patterns that match a parameter name. Found `encoder.*`",
        ),
    ],
    ids=["without layers", "head", "near matches", "layers"],
)
def test_what_does_not_fit_the_model_is_refused(make: Any, transform: HeadOnly, message: str):
    with pytest.raises(ConfigurationError) as refused:
        GradientEngine(make(), transform)
    assert message in str(refused.value)


def test_no_layers_are_refused():
    with pytest.raises(ConfigurationError, match=r"should hold a pattern per layer\. Found `layers = \[\]`\."):
        HeadOnly(layers=[])
