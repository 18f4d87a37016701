from collections import Counter
from functools import cache

import pytest
import torch
from torch import nn

from lightning_sparsegrad.components import (
    Component,
    FusedProjection,
    NamedParameters,
    Part,
    check_components,
    find_layers,
    partition,
    without_split,
)
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases
from tests.tiny import TINY, tiny_bert, tiny_gpt2, tiny_modernbert

KINDS = ("tensor", "projection", "module", "block", "global", {"*.weight": "weights", "*": "rest"})


@cache
def parameters_of(kind: str) -> NamedParameters:
    return NamedParameters(TINY[kind]())


def names(components: list[Component]) -> list[str]:
    return [component.name for component in components]


def members(components: list[Component]) -> dict[str, list[str]]:
    return {component.name: [part.parameter for part in component.parts] for component in components}


@cases("components", KINDS, ids=[*KINDS[:5], "patterns"])
@cases("kind", TINY)
def test_every_entry_is_in_exactly_one_component(kind, components):
    parameters = parameters_of(kind)
    actual = partition(parameters, components)
    counts = {name: torch.zeros_like(tensor, dtype=torch.uint8) for name, tensor in parameters.tensors.items()}
    for component in actual:
        assert component.parts
        for part in component.parts:
            part.of(counts[part.parameter]).add_(1)
    assert all(count.eq(1).all() for count in counts.values())
    assert max(Counter(names(actual)).values()) == 1
    order = list(parameters)
    firsts = [order.index(component.parts[0].parameter) for component in actual]
    assert firsts == sorted(firsts)


def test_a_component_per_tensor():
    parameters = NamedParameters(tiny_modernbert())
    assert partition(parameters, "tensor") == [Component(name, (Part(name),)) for name in parameters]


def test_projections_differ_from_tensors_in_fused_projections_only():
    parameters = NamedParameters(tiny_gpt2())
    tensors, projections = (names(partition(parameters, kind)) for kind in ("tensor", "projection"))
    fused = [name for name in tensors if "c_attn" in name]
    assert len(fused) == 6
    expected = [
        piece
        for name in tensors
        for piece in ([f"{name}.{part}" for part in ("query", "key", "value")] if name in fused else [name])
    ]
    assert projections == expected


def test_projections_of_a_model_without_fused_ones_are_its_tensors():
    parameters = NamedParameters(tiny_bert())
    assert partition(parameters, "projection") == partition(parameters, "tensor")


def test_a_component_per_module():
    actual = members(partition(NamedParameters(tiny_bert()), "module"))
    assert actual["classifier"] == ["classifier.weight", "classifier.bias"]
    assert actual["bert.embeddings.word_embeddings"] == ["bert.embeddings.word_embeddings.weight"]
    query = "bert.encoder.layer.1.attention.self.query"
    assert actual[query] == [f"{query}.weight", f"{query}.bias"]


def test_a_parameter_of_the_root_is_a_module_of_its_own():
    model = nn.Module()
    model.scale = nn.Parameter(torch.ones(()))
    model.shift = nn.Parameter(torch.ones(()))
    assert members(partition(NamedParameters(model), "module")) == {"scale": ["scale"], "shift": ["shift"]}


def test_a_component_per_block():
    parameters = NamedParameters(tiny_bert())
    actual = members(partition(parameters, "block"))
    layers = find_layers(parameters)
    assert list(actual) == ["embeddings", "block 0", "block 1", "block 2", "head"]
    assert all(layers.names[layers.top_depth(name)] == layer for layer, each in actual.items() for name in each)


@cases("components", ["tensor", "projection", "module", "block", "global"])
def test_a_tied_weight_is_in_one_component(components):
    actual = members(partition(NamedParameters(tiny_gpt2()), components))
    (owner,) = [name for name, each in actual.items() if "transformer.wte.weight" in each]
    expected = {"module": "transformer.wte", "block": "head", "global": "all"}  # of its layers, the topmost
    assert owner == expected.get(components, "transformer.wte.weight")
    assert not any("lm_head.weight" in each for each in actual.values())


# ---------------------------------------------------------------- patterns
@pytest.fixture
def small():
    return NamedParameters(nn.ModuleDict({"encoder": nn.Linear(2, 3), "head": nn.Linear(3, 1)}))


def test_the_first_pattern_that_matches_counts(small):
    actual = members(partition(small, {"*.bias": "biases", "encoder.*": "body", "*": "rest"}))
    assert actual == {
        "body": ["encoder.weight"],
        "biases": ["encoder.bias", "head.bias"],
        "rest": ["head.weight"],
    }


def test_patterns_may_share_a_name(small):
    actual = members(partition(small, {"encoder.bias": "one", "head.*": "one", "*": "other"}))
    assert actual == {"other": ["encoder.weight"], "one": ["encoder.bias", "head.weight", "head.bias"]}


def test_a_pattern_finds_a_tied_weight_by_its_other_name():
    actual = members(partition(NamedParameters(tiny_gpt2()), {"lm_head.*": "output", "*": "rest"}))
    assert actual["output"] == ["transformer.wte.weight"]


@cases(
    ("components", "message"),
    [
        (
            {"encoder.*": "body"},
            r"`components` should match every parameter; .* Found 2 without .*, `head\.weight`",
        ),
        ({"encodr.*": "body", "*": "rest"}, r"`components` .*`encodr\.\*`, .* Near matches: `encoder\.weight`"),
        ("block", r"`layers` should be given"),
    ],
    ids=["leftovers", "no match", "no blocks"],
)
def test_partitions_that_a_model_does_not_have(small, components, message):
    with pytest.raises(ConfigurationError, match=message):
        partition(small, components)


@cases(
    ("components", "message"),
    [
        (
            "tensors",
            r"one of 'projection', 'tensor', 'module', 'block', .* `components = 'tensors'`\. .*`tensor`",
        ),
        ("zzz", r"Found `components = 'zzz'`\.$"),
        ({}, r"`components` should hold a pattern\. Found `components = \{\}`"),
    ],
    ids=["typo", "unknown", "empty"],
)
def test_impossible_components(small, components, message):
    with pytest.raises(ConfigurationError, match=message):
        check_components(components)
    with pytest.raises(ConfigurationError, match=message):
        partition(small, components)


# ---------------------------------------------------------------- fused projections of the user
def test_a_layout_of_the_user_makes_components(small):
    fused = {"encoder.*": FusedProjection([1, 2], names=["key", "value"])}
    actual = partition(small, "projection", fused=fused)
    assert names(actual) == [
        "encoder.weight.key",
        "encoder.weight.value",
        "encoder.bias.key",
        "encoder.bias.value",
        "head.weight",
        "head.bias",
    ]
    assert actual[1].parts[0].of(small["encoder.weight"]).shape == (1, 2, 2)


@cases("components", ["tensor", "module", {"*": "all"}], ids=str)
def test_a_layout_is_an_error_where_nothing_is_split(small, components):
    with pytest.raises(ConfigurationError, match=r"`fused` should be given with `components = 'projection'` only"):
        partition(small, components, fused={"encoder.*": FusedProjection([1, 1, 1])})


def test_a_pattern_whose_matches_all_go_to_earlier_ones_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"Found `head\.\*`, whose matches all belong to earlier patterns"):
        partition(NamedParameters(nn.ModuleDict({"head": nn.Linear(2, 2)})), {"*": "all", "head.*": "head"})


@cases(
    ("names", "left"),
    [
        ("", ""),
        ("abc", "abc"),
        ("abcz", "abcz"),
        ("ab", ""),
        ("abd", "d"),
        ("de", "de"),
        ("abce", "abce"),
        ("cde", "de"),
    ],
)
def test_groups_that_would_be_split_go_and_take_with_them_what_overlaps(names: str, left: str) -> None:
    groups = [frozenset("ab"), frozenset("bc"), frozenset("d")]
    assert without_split(frozenset(names), groups) == frozenset(left)
