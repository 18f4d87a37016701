from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn
from transformers import AutoModel

from lightning_sparsegrad.components import Layers, NamedParameters, find_layers
from lightning_sparsegrad.errors import ConfigurationError
from tests import tiny
from tests.cases import cases
from tests.components.layer_cases import EMBEDDINGS, MODELS
from tests.transforms.small import Small


def roles(layers: Layers, parameters: NamedParameters) -> dict[str, set[str]]:
    """Layers by parameter, under each of its names."""
    return {
        role: {layers.names[depth] for depth in layers.depths[name]}
        for name, names in parameters.roles.items()
        for role in names
    }


def layer_of(model: nn.Module, **options) -> dict[str, str]:
    """The one layer of each parameter of a model without ties."""
    parameters = NamedParameters(model)
    actual = roles(find_layers(parameters, **options), parameters)
    return {name: layer for name, (layer,) in actual.items()}


@cases(("make", "expected"), MODELS.values(), ids=MODELS)
def test_every_parameter_lies_where_it_should(make, expected):
    stacks, outside = expected
    prefixes = [f"{path}.{i}." for path, count in stacks.items() for i in range(count)]
    parameters = NamedParameters(make())
    layers = find_layers(parameters)
    assert layers.names == (EMBEDDINGS, *(f"block {i}" for i in range(len(prefixes))), "head")
    assert layers.has_head
    assert layers.count == 1 + len(prefixes)
    for name, names in parameters.roles.items():
        wanted = set()
        for role in names:
            blocks = [f"block {i}" for i, prefix in enumerate(prefixes) if role.startswith(prefix)]
            (layer,) = {*blocks, *(layer for glob, layer in outside.items() if fnmatchcase(role, glob))}
            wanted.add(layer)
        assert (name, {layers.names[depth] for depth in layers.depths[name]}) == (name, wanted)
    for glob in outside:
        parameters.matched(glob, parameter="outside")  # a glob of the table that matches nothing is a mistake in it


def test_a_tied_weight_has_the_layers_of_all_its_names():
    layers = find_layers(NamedParameters(tiny.tiny_gpt2()))
    tied = "transformer.wte.weight"
    assert layers.depths[tied] == {0, 4}
    assert layers.top_depth(tied) == 4
    assert layers.height(tied) == 1.0
    assert tied not in layers.within(frozenset({0, 1, 2, 3}))
    assert tied not in layers.within(frozenset({4}))
    assert tied in layers.within(frozenset({0, 4}))


def test_heights_go_from_the_bottom_to_the_top():
    layers = find_layers(NamedParameters(tiny.tiny_bert()))
    heights = [
        layers.height(name)
        for name in (
            "bert.embeddings.LayerNorm.bias",
            "bert.encoder.layer.0.output.dense.weight",
            "bert.encoder.layer.2.output.dense.weight",
            "classifier.bias",
        )
    ]
    assert heights == [0.0, 0.25, 0.75, 1.0]


def test_within_returns_whole_layers():
    layers = find_layers(NamedParameters(tiny.tiny_bert()))
    within = layers.within(frozenset({1, 3}))
    assert {name.split(".")[3] for name in within} == {"0", "2"}
    assert len(within) == 2 * 16
    assert layers.within(frozenset()) == frozenset()
    assert layers.within(frozenset(range(5))) == frozenset(layers.depths)


def test_a_backbone_without_a_head_has_none():
    model = tiny.build(AutoModel.from_config, tiny.tiny_llama().config)
    layers = find_layers(NamedParameters(model))
    assert layers.names == (EMBEDDINGS, "block 0", "block 1", "block 2")
    assert (layers.has_head, layers.count) == (False, 4)
    assert layers.height("norm.weight") == 1.0


# ---------------------------------------------------------------- models of one's own
class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)


class Classifier(nn.Module):
    """Registered in the order in which it runs."""

    def __init__(self, stack: type[nn.ModuleList] | type[nn.Sequential]) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 4)
        self.position = nn.Parameter(torch.zeros(5, 4))
        self.blocks = stack(Block(), Block()) if stack is nn.Sequential else nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(4)
        self.hidden, self.output = nn.Linear(4, 4), nn.Linear(4, 2)


@cases("stack", [nn.ModuleList, nn.Sequential])
def test_lists_and_pipelines_of_one_class_are_stacks(stack):
    actual = layer_of(Classifier(stack))
    assert actual["tokens.weight"] == actual["position"] == EMBEDDINGS
    assert actual["blocks.0.down.bias"] == "block 0"
    assert actual["blocks.1.norm.weight"] == "block 1"
    assert actual["norm.weight"] == "block 1"
    assert actual["hidden.weight"] == actual["output.bias"] == "head"


@cases("shape", [(), (1,)], ids=str)
def test_a_temperature_belongs_to_the_head(shape):
    model = Classifier(nn.ModuleList)
    registered_first = nn.ModuleDict({"loss": nn.ParameterDict({"temperature": torch.ones(shape)}), "model": model})
    assert layer_of(registered_first)["loss.temperature"] == "head"
    model.register_parameter("temperature", nn.Parameter(torch.ones(shape)))
    assert layer_of(model)["temperature"] == "head"
    model.position = nn.Parameter(torch.ones(shape))  # registered before the blocks
    assert layer_of(model)["position"] == "head"


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.transformer = nn.Transformer(8, 2, 2, 3, 16, batch_first=True)
        self.output = nn.Linear(8, 9)


def test_torch_transformer():
    actual = layer_of(Translator())
    assert set(actual.values()) == {EMBEDDINGS, *(f"block {i}" for i in range(5)), "head"}
    assert actual["embedding.weight"] == EMBEDDINGS
    assert actual["transformer.encoder.layers.1.linear1.weight"] == "block 1"
    assert actual["transformer.encoder.norm.weight"] == "block 1"
    assert actual["transformer.decoder.layers.0.linear1.weight"] == "block 2"
    assert actual["transformer.decoder.norm.weight"] == "block 4"
    assert actual["output.weight"] == "head"


class Series(nn.Module):
    """Takes features as input: it has no embeddings."""

    def __init__(self, *, project: bool) -> None:
        super().__init__()
        self.project = nn.Linear(3, 8) if project else nn.Identity()
        layer = nn.TransformerEncoderLayer(8, 2, 16)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
        self.output = nn.Linear(8, 1)


def test_an_input_projection_stands_for_embeddings():
    actual = layer_of(Series(project=True))
    assert actual["project.weight"] == EMBEDDINGS
    assert actual["encoder.norm.weight"] == "block 1"
    assert actual["output.weight"] == "head"


def test_a_model_without_embeddings_starts_at_its_first_block():
    parameters = NamedParameters(Series(project=False))
    layers = find_layers(parameters)
    assert layers.names == ("block 0", "block 1", "head")
    assert layers.count == 2
    assert layers.height("encoder.layers.0.linear1.weight") == 0.0
    assert layers.height("encoder.norm.weight") == 0.5


class Task(nn.Module):
    """Like many a LightningModule: new modules first, the pretrained ones after them."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 2))
        self.temperature = nn.Parameter(torch.ones(1))
        self.backbone = backbone


@cases("kind", ["bert", "modernbert", "vit", "llama"])
def test_a_head_registered_before_its_backbone(kind):
    with_head = tiny.TINY[kind]()
    actual = layer_of(Task(tiny.build(AutoModel.from_config, with_head.config)))
    assert {name for name, layer in actual.items() if layer == "head" and "pooler" not in name} == {
        "classifier.0.weight",
        "classifier.0.bias",
        "classifier.1.weight",
        "classifier.1.bias",
        "temperature",
    }
    assert {layer for name, layer in actual.items() if "emb" in name} == {EMBEDDINGS}
    assert set(actual.values()) == {EMBEDDINGS, "block 0", "block 1", "block 2", "head"}


def test_a_model_with_its_head_inside_a_wrapper():
    model = nn.ModuleDict({"model": tiny.tiny_roberta()})
    direct, wrapped = layer_of(tiny.tiny_roberta()), layer_of(model)
    assert wrapped == {f"model.{name}": layer for name, layer in direct.items()}


def test_a_compiled_model_has_the_same_layers():
    assert layer_of(tiny.compiled(tiny.tiny_deberta())) == layer_of(tiny.tiny_deberta())


# ---------------------------------------------------------------- patterns and errors
class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)


@cases(
    "model",
    [Plain(), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 1)])],
    ids=["plain", "sequential", "list of single layers"],
)
def test_a_model_without_blocks_needs_patterns(model):
    with pytest.raises(ConfigurationError, match=r"Parameter `layers` should be given .* Found no list of blocks in `"):
        find_layers(NamedParameters(model))


def test_layers_from_patterns():
    parameters = NamedParameters(Plain())
    layers = find_layers(parameters, layers=["first.*", "second.*"])
    assert layers.names == ("block 0", "block 1", "head")
    assert layer_of(Plain(), layers=["first.*", "second.*"]) == {
        **dict.fromkeys(["first.weight", "first.bias"], "block 0"),
        **dict.fromkeys(["second.weight", "second.bias"], "block 1"),
        **dict.fromkeys(["third.weight", "third.bias"], "head"),
    }


def test_layers_from_patterns_without_a_rest_have_no_head():
    layers = find_layers(NamedParameters(Plain()), layers=["first.*", "*"])
    assert layers.names == ("block 0", "block 1")
    assert not layers.has_head
    assert layers.top_depth("first.bias") == 0  # the first pattern that matches counts
    assert layers.top_depth("third.bias") == 1


def test_a_head_from_patterns():
    actual = layer_of(tiny.tiny_bert(), head="classifier.*")
    assert {name for name, layer in actual.items() if layer == "head"} == {"classifier.weight", "classifier.bias"}
    assert actual["bert.pooler.dense.weight"] == "block 2"
    actual = layer_of(tiny.tiny_bert(), head=["classifier.*", "*.layer.2.*"])
    assert actual["bert.encoder.layer.2.output.dense.bias"] == "head"
    actual = layer_of(Plain(), layers=["first.*", "second.*"], head="third.bias")
    assert (actual["third.weight"], actual["third.bias"]) == ("block 1", "head")


@cases(
    ("options", "message"),
    [
        ({"layers": ["first.*", "secnd.*"]}, r"`layers` .*`secnd\.\*`, which .* Near matches: `second\.weight`"),
        ({"layers": ["first.*"], "head": "thrid.*"}, r"`head` .*`thrid\.\*`, which .* Near matches: `third\.weight`"),
    ],
    ids=["layers", "head"],
)
def test_patterns_have_to_match(options, message):
    with pytest.raises(ConfigurationError, match=message):
        find_layers(NamedParameters(Plain()), **options)


# ---------------------------------------------------------------- where a model is
@cases("wrap", [lambda model: model, tiny.compiled], ids=["as it is", "compiled"])
def test_a_model_has_the_same_layers_inside_a_task(wrap):
    task = nn.Module()
    task.model = wrap(Small())
    expected = layer_of(wrap(Small()))
    assert layer_of(task) == {f"model.{name}": layer for name, layer in expected.items()}
    assert expected == layer_of(Small())
    assert {expected["head.weight"], expected["head.bias"]} == {"head"}
