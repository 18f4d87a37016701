from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lightning_sparsegrad.components import FusedProjection, NamedParameters, Part, output_dim
from lightning_sparsegrad.components.projections import split_fused
from lightning_sparsegrad.errors import ConfigurationError
from tests import tiny
from tests.cases import cases

LENGTH = 6
# A language or classification model, the fused projection of its first block, what takes the attention's output in, and
# how many of the projection's outputs are query, key and value.
MODELS: dict[str, tuple[Callable[[], nn.Module], str, str, tuple[int, int, int]]] = {
    "gpt2": (tiny.tiny_gpt2, "transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj", (32, 32, 32)),
    "modernbert": (tiny.tiny_modernbert, "model.layers.0.attn.Wqkv", "model.layers.0.attn.Wo", (32, 32, 32)),
    "gpt_neox": (
        tiny.tiny_gpt_neox,
        "gpt_neox.layers.0.attention.query_key_value",
        "gpt_neox.layers.0.attention.dense",
        (32, 32, 32),
    ),
    "bloom": (
        tiny.tiny_bloom,
        "transformer.h.0.self_attention.query_key_value",
        "transformer.h.0.self_attention.dense",
        (32, 32, 32),
    ),
    "persimmon": (
        tiny.tiny_persimmon,
        "model.layers.0.self_attn.query_key_value",
        "model.layers.0.self_attn.dense",
        (32, 32, 32),
    ),
    "mpt": (tiny.tiny_mpt, "transformer.blocks.0.attn.Wqkv", "transformer.blocks.0.attn.out_proj", (32, 32, 32)),
    "phi3, grouped queries": (
        tiny.tiny_phi3,
        "model.layers.0.self_attn.qkv_proj",
        "model.layers.0.self_attn.o_proj",
        (32, 16, 16),
    ),
    "falcon, one key-value head": (
        tiny.tiny_falcon,
        "transformer.h.0.self_attention.query_key_value",
        "transformer.h.0.self_attention.dense",
        (32, 8, 8),
    ),
    "falcon, as many key-value heads": (
        lambda: tiny.tiny_falcon(multi_query=False, bias=True),
        "transformer.h.0.self_attention.query_key_value",
        "transformer.h.0.self_attention.dense",
        (32, 32, 32),
    ),
    "falcon, new decoder, grouped queries": (
        lambda: tiny.tiny_falcon(new_decoder_architecture=True, num_kv_heads=2),
        "transformer.h.0.self_attention.query_key_value",
        "transformer.h.0.self_attention.dense",
        (32, 16, 16),
    ),
    "gpt_bigcode, one key-value head": (
        tiny.tiny_gpt_bigcode,
        "transformer.h.0.attn.c_attn",
        "transformer.h.0.attn.c_proj",
        (32, 8, 8),
    ),
    "gpt_bigcode, as many key-value heads": (
        lambda: tiny.tiny_gpt_bigcode(multi_query=False),
        "transformer.h.0.attn.c_attn",
        "transformer.h.0.attn.c_proj",
        (32, 32, 32),
    ),
    "codegen, cut for four devices": (
        tiny.tiny_codegen,
        "transformer.h.0.attn.qkv_proj",
        "transformer.h.0.attn.out_proj",
        (32, 32, 32),
    ),
    "deberta, head by head": (
        lambda: tiny.tiny_deberta(relative_attention=False),
        "deberta.encoder.layer.0.attention.self.in_proj",
        "deberta.encoder.layer.0.attention.output.dense",
        (32, 32, 32),
    ),
}


def outputs_of(parts: dict[str, Part], tensor: Tensor) -> dict[str, Tensor]:
    """Turn parts of a weight or bias into masks over the outputs of the projection."""
    outputs = {}
    for name, part in parts.items():
        marked = torch.zeros_like(tensor)
        part.of(marked).fill_(1)
        if marked.ndim == 2:
            inputs = 1 - part.dim
            assert torch.equal(marked.amin(inputs), marked.amax(inputs))  # whole outputs, all their inputs
            marked = marked.amax(inputs)
        outputs[name] = marked.bool()
    return outputs


def attend(model: nn.Module, projection: str, output: str) -> tuple[Tensor, Tensor]:
    """Return the output of the fused projection and that of the attention."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(projection).register_forward_hook(lambda m, i, o: seen.update(projected=o)),
        model.get_submodule(output).register_forward_pre_hook(lambda m, i: seen.update(context=i[0])),
    ]
    ids = torch.randint(3, tiny.VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(2))
    model.eval()(input_ids=ids)
    for handle in handles:
        handle.remove()
    return seen["projected"], seen["context"]


def sensitivity(projected: Tensor, context: Tensor) -> Tensor:
    """Return how much the context at the last position depends on each output of the projection, at each position."""
    last = context.reshape(1, LENGTH, -1)[0, -1]
    weights = torch.randn(last.shape, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((last * weights).sum(), projected)
    return gradient.reshape(LENGTH, -1).abs()


def fused_parts(model: nn.Module, projection: str) -> dict[str, dict[str, Part]]:
    """Make all fused projections random, so that nothing is zero; return the parts of one, weight and bias."""
    parts = split_fused(NamedParameters(model), None)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in parts:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return {name: cut for name, cut in parts.items() if name.startswith(f"{projection}.")}


def erase(model: nn.Module, parts: dict[str, dict[str, Part]], name: str) -> None:
    with torch.no_grad():
        for cut in parts.values():
            part = cut[name]
            part.of(model.get_parameter(part.parameter)).zero_()


@cases(("make", "projection", "output", "sizes"), MODELS.values(), ids=MODELS)
def test_the_parts_are_what_attention_takes_them_for(make, projection, output, sizes):
    model = make()
    parts = fused_parts(model, projection)
    assert set(parts) == {f"{projection}.{name}" for name, _ in model.get_submodule(projection).named_parameters()}
    each = [outputs_of(cut, model.get_parameter(name)) for name, cut in parts.items()]
    query, key, value = (each[0][name] for name in ("query", "key", "value"))
    assert all(torch.equal(masks[name], each[0][name]) for masks in each for name in masks)  # the bias as the weight
    assert (int(query.sum()), int(key.sum()), int(value.sum())) == sizes
    assert (query.long() + key.long() + value.long()).eq(1).all()

    # what the last position takes from earlier ones are their keys and values, and only its own query
    sensitive = sensitivity(*attend(model, projection, output))
    assert sensitive[:-1, query].eq(0).all()
    assert sensitive[:-1, key | value].amax(0).gt(0).all()
    assert sensitive[-1, query].gt(0).all()

    # without values there is nothing to attend to
    erase(model, parts, "value")
    assert attend(model, projection, output)[1].eq(0).all()

    # without keys no query has a preference, and without queries no key is preferred
    for nothing, indifferent in (("key", query), ("query", key)):
        fused_parts(model, projection)
        erase(model, parts, nothing)
        sensitive = sensitivity(*attend(model, projection, output))
        assert sensitive[:, indifferent].eq(0).all()
        assert sensitive[:, value].amax(0).gt(0).all()


@cases("bias", [True, False])
def test_the_parts_of_torch_attention(bias):
    attention = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True)
    parts = split_fused(NamedParameters(attention), None)
    assert set(parts) == ({"in_proj_weight", "in_proj_bias"} if bias else {"in_proj_weight"})
    if bias:
        nn.init.normal_(attention.in_proj_bias)
    inputs, heads = torch.randn(3, 5, 8), {}
    for name in ("query", "key", "value"):
        heads[name] = inputs @ parts["in_proj_weight"][name].of(attention.in_proj_weight)[0].T
        if bias:
            heads[name] += parts["in_proj_bias"][name].of(attention.in_proj_bias)[0]
    query, key, value = (heads[name].view(3, 5, 2, 4).transpose(1, 2) for name in ("query", "key", "value"))
    expected = attention.out_proj(scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(3, 5, 8))
    torch.testing.assert_close(attention(inputs, inputs, inputs)[0], expected)


def test_torch_attention_with_keys_of_another_width_has_a_fused_bias_only():
    parts = split_fused(NamedParameters(nn.MultiheadAttention(8, 2, kdim=4, vdim=6)), None)
    assert list(parts) == ["in_proj_bias"]


def test_cross_attention_has_keys_and_values_only():
    model = tiny.tiny_gpt2(add_cross_attention=True)
    parts = split_fused(NamedParameters(model), None)
    name = "transformer.h.0.crossattention.c_attn.weight"
    assert list(parts[name]) == ["key", "value"]
    assert list(parts["transformer.h.0.attn.c_attn.weight"]) == ["query", "key", "value"]
    assert "transformer.h.0.crossattention.q_attn.weight" not in parts
    erase(model, {name: parts[name]}, "value")
    seen: list[Tensor] = []
    output = model.get_submodule("transformer.h.0.crossattention.c_proj")
    output.register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    ids = torch.arange(3, 3 + LENGTH)[None]
    model.eval()(input_ids=ids, encoder_hidden_states=torch.randn(1, 4, 32))
    assert seen[0].eq(0).all()


@cases(
    "make",
    [tiny.tiny_bert, tiny.tiny_llama, tiny.tiny_t5, tiny.tiny_vit, tiny.tiny_albert],
    ids=["bert", "llama", "t5", "vit", "albert"],
)
def test_models_without_fused_projections_are_not_cut(make):
    assert split_fused(NamedParameters(make()), None) == {}


@cases(("make", "projection"), [(m[0], m[1]) for m in MODELS.values()], ids=MODELS)
def test_all_blocks_are_cut_alike(make, projection):
    model = make()
    parts = split_fused(NamedParameters(model), None)
    everywhere = projection.replace(".0.", ".*.") + ".*"
    assert set(parts) == {name for name, _ in model.named_parameters() if fnmatchcase(name, everywhere)}
    assert len(parts) in {3, 6}


def test_a_compiled_model_is_cut_alike():
    compiled = NamedParameters(tiny.compiled(tiny.tiny_gpt2()))
    assert split_fused(compiled, None) == split_fused(NamedParameters(tiny.tiny_gpt2()), None)


# ---------------------------------------------------------------- parts
@cases(
    ("part", "shape", "expected"),
    [
        (Part("w"), (2, 3), [0, 1, 2, 3, 4, 5]),
        (Part("w"), (), [0]),
        (Part("w", 0, 1, 2, 2), (6,), [2, 3]),
        (Part("w", 0, 1, 1, 2), (4, 2), [2, 3, 4, 5]),
        (Part("w", 1, 1, 1, 2), (2, 4), [1, 2, 5, 6]),
        (Part("w", 0, 2, 1, 1), (6,), [1, 4]),
        (Part("w", 0, 2, 0, 1), (4, 2), [0, 1, 4, 5]),
        (Part("w", 1, 2, 1, 1), (2, 4), [1, 3, 5, 7]),
    ],
    ids=["whole", "0-d", "bias", "rows", "columns", "groups of a bias", "groups of rows", "groups of columns"],
)
def test_a_part_is_a_view_that_writes_through(part, shape, expected):
    tensor = torch.zeros(shape)
    before = tensor.data_ptr()
    part.of(tensor).add_(1)
    assert tensor.data_ptr() == before
    assert tensor.flatten().nonzero().flatten().tolist() == expected


@cases("dim", [0, 1])
def test_a_part_of_a_transposed_tensor_is_a_view_too(dim):
    tensor = torch.zeros(6, 6).T
    straight = torch.zeros(6, 6)
    for each in (tensor, straight):
        Part("w", dim, 2, 1, 2).of(each).fill_(1)
    assert torch.equal(tensor, straight)
    assert tensor.sum() == 24


# ---------------------------------------------------------------- layouts of the user
class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pack = nn.Linear(4, 10)
        self.out = nn.Linear(4, 4)


def test_a_layout_of_the_user():
    model = nn.ModuleDict({"a": Attention(), "b": Attention()})
    layout = FusedProjection(sizes=[3, 1, 1], groups=2, names=["gate", "key", "value"])
    parts = split_fused(NamedParameters(model), {"*.pack.*": layout})
    assert set(parts) == {"a.pack.weight", "a.pack.bias", "b.pack.weight", "b.pack.bias"}
    cut = parts["b.pack.bias"]
    assert list(cut) == ["gate", "key", "value"]
    assert {name: part.of(torch.arange(10)).flatten().tolist() for name, part in cut.items()} == {
        "gate": [0, 1, 2, 5, 6, 7],
        "key": [3, 8],
        "value": [4, 9],
    }


def test_a_layout_of_the_user_wins():
    layout = FusedProjection(sizes=[64, 32], names=["first", "second"])
    parts = split_fused(NamedParameters(tiny.tiny_gpt2()), {"*.0.attn.c_attn.weight": layout})
    assert {name: part.length for name, part in parts["transformer.h.0.attn.c_attn.weight"].items()} == {
        "first": 64,
        "second": 32,
    }
    assert parts["transformer.h.0.attn.c_attn.weight"]["first"].dim == 1  # GPT-2's weights are transposed
    assert list(parts["transformer.h.0.attn.c_attn.bias"]) == ["query", "key", "value"]


@cases(
    ("fused", "message"),
    [
        (
            {"*.pack.weight": FusedProjection([3, 3, 3])},
            r"`fused` should describe all 10 outputs of `a\.pack\.weight`\. Found `sizes = \[3, 3, 3\]`, `groups = 1`",
        ),
        (
            {"*.pack.*": FusedProjection([3, 2], groups=3, names=["q", "k"])},
            r"all 10 outputs of `a\.pack\.weight`\. Found `sizes = \[3, 2\]`, `groups = 3`",
        ),
        (
            {"*.pakc.weight": FusedProjection([10], names=["all"])},
            r"`fused` .* Found `\*\.pakc\.weight`, .* Near matches: `a\.pack\.weight`",
        ),
    ],
    ids=["too small", "too large", "no match"],
)
def test_layouts_that_do_not_fit(fused, message):
    with pytest.raises(ConfigurationError, match=message):
        split_fused(NamedParameters(nn.ModuleDict({"a": Attention()})), fused)


@cases(
    ("arguments", "message"),
    [
        ({"sizes": []}, r"`sizes` should hold positive numbers\. Found `sizes = \[\]`"),
        ({"sizes": [4, 0, 4]}, r"`sizes` should hold positive numbers\. Found `sizes = \[4, 0, 4\]`"),
        ({"sizes": [4, 4, 4], "groups": 0}, r"`groups` should be positive\. Found `groups = 0`"),
        ({"sizes": [4, 4]}, r"`names` should name each of the 2 parts\. Found `names = "),
    ],
    ids=["no size", "size zero", "groups", "names"],
)
def test_impossible_layouts(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        FusedProjection(**arguments)


# ---------------------------------------------------------------- outputs
@cases("name", ["gpt2", "modernbert"])
def test_outputs_of_a_matrix_lie_where_its_bias_is_as_long(name):
    parameters = NamedParameters(MODELS[name][0]())
    with_bias = [each for each in parameters if each.endswith("weight") and f"{each[:-6]}bias" in parameters.tensors]
    dims = {each: output_dim(each, parameters) for each in with_bias if parameters[each].ndim == 2}
    assert set(dims.values()) == ({1} if name == "gpt2" else {0})
    for each, dim in dims.items():
        assert parameters[each].shape[dim] == len(parameters[f"{each[:-6]}bias"])
    assert all(output_dim(each, parameters) == 0 for each in parameters if parameters[each].ndim < 2)
