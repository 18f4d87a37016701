import copy
import pickle
from collections.abc import Callable

import pytest
from torch import distributed, nn

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases
from tests.tiny import compiled, tiny_bert, tiny_gpt2, tiny_t5

TIED = "transformer.wte.weight"


@pytest.fixture
def process_group(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_names_are_those_of_the_model_in_its_order():
    model = tiny_bert()
    parameters = NamedParameters(model)
    assert list(parameters) == [name for name, _ in model.named_parameters()]
    assert len(parameters) == len(list(model.parameters()))
    assert all(parameters[name] is tensor for name, tensor in model.named_parameters())


# ---------------------------------------------------------------- wrappers
def test_a_compiled_model_has_the_names_of_the_model():
    model = tiny_gpt2()
    parameters = NamedParameters(compiled(model))
    assert parameters.roles == NamedParameters(model).roles
    assert parameters[TIED] is model.get_parameter(TIED)


def test_a_compiled_part_has_the_names_of_the_part():
    model = tiny_bert()
    plain = NamedParameters(model).roles
    model.get_submodule("bert").encoder = compiled(model.get_submodule("bert.encoder"))
    assert any("_orig_mod" in name for name, _ in model.named_parameters())
    assert NamedParameters(model).roles == plain


@cases("order", ["data parallel", "data parallel, compiled", "compiled, data parallel"])
def test_a_data_parallel_model_has_the_names_of_the_model(order, process_group):
    model = nn.ModuleDict({"module": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    wrapped: nn.Module = model
    for step in order.split(", "):
        wrapped = nn.parallel.DistributedDataParallel(wrapped) if step == "data parallel" else compiled(wrapped)
    assert NamedParameters(wrapped).roles == NamedParameters(model).roles


# ---------------------------------------------------------------- tied weights
def test_a_tied_weight_appears_once_under_its_first_name():
    parameters = NamedParameters(tiny_gpt2())
    assert TIED in list(parameters)
    assert "lm_head.weight" not in list(parameters)
    assert parameters.roles[TIED] == (TIED, "lm_head.weight")
    assert len({id(tensor) for tensor in parameters.tensors.values()}) == len(parameters)


@cases("pattern", [TIED, "lm_head.weight", "lm_*", "*.wte.*", ["lm_head.weight", TIED]], ids=str)
def test_a_tied_weight_is_found_by_any_of_its_names(pattern):
    parameters = NamedParameters(tiny_gpt2())
    assert parameters.select("include", pattern) == {TIED}
    assert TIED not in parameters.filtered(None, pattern)


def test_a_weight_may_have_many_names():
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    parameters = NamedParameters(tiny_t5())
    assert parameters.roles["shared.weight"] == names
    assert set(names) <= set(parameters.all_names)
    assert parameters.matched("*embed_tokens*", parameter="include") == set(names[1:3])


# ---------------------------------------------------------------- include, exclude
@pytest.fixture
def small():
    return NamedParameters(nn.ModuleDict({"encoder": nn.Linear(2, 3), "head": nn.Linear(3, 1)}))


@cases(
    ("include", "exclude", "expected"),
    [
        (None, None, ["encoder.weight", "encoder.bias", "head.weight", "head.bias"]),
        ("encoder.*", None, ["encoder.weight", "encoder.bias"]),
        (None, "*.bias", ["encoder.weight", "head.weight"]),
        (["head.*", "encoder.*"], ["*.bias"], ["encoder.weight", "head.weight"]),
        ("head.weight", [], ["head.weight"]),
        ("*.?ias", "head*", ["encoder.bias"]),
    ],
    ids=["all", "include", "exclude", "both", "one name", "wildcards"],
)
def test_filtered_is_what_is_included_and_not_excluded_in_model_order(small, include, exclude, expected):
    assert small.filtered(include, exclude) == expected


@cases(
    ("include", "exclude", "message"),
    [
        (
            "encodr.*",
            None,
            r"`include` .* Found `encodr\.\*`, which matches none of 4\. Near matches: `encoder\.weight`",
        ),
        (None, "*.bais", r"`exclude` .* Found `\*\.bais`, which matches none of 4\. Near matches: `encoder\.bias`"),
        ("Encoder.*", None, r"Found `Encoder\.\*`"),
        (
            ["encoder.*", "zzz"],
            None,
            r"Found `zzz`, .* Near matches: `encoder\.weight`, `encoder\.bias`, `head\.weight`\.",
        ),
        ("head.*", "*", r"`include` and `exclude` should leave something\. .*`exclude = \*`, which leave none of 4"),
        ([], None, r"should leave something\. Found `include = \[\]`"),
    ],
    ids=["include", "exclude", "case", "one of two", "nothing left", "no pattern"],
)
def test_patterns_that_match_or_leave_nothing_are_errors(small, include, exclude, message):
    with pytest.raises(ConfigurationError, match=message):
        small.filtered(include, exclude)


def test_near_matches_of_a_deep_name():
    with pytest.raises(
        ConfigurationError, match=r"Near matches: `bert\.encoder\.layer\.0\.attention\.self\.query\.weight`"
    ):
        NamedParameters(tiny_bert()).select("include", "*.attention.self.qery.*")


def test_a_model_without_parameters_is_an_error():
    with pytest.raises(ConfigurationError, match=r"`model` should have parameters\. Found `ReLU` without\."):
        NamedParameters(nn.ReLU())


def _pickled(original: NamedParameters) -> NamedParameters:
    return pickle.loads(pickle.dumps(original))  # type: ignore[no-any-return]  # noqa: S301  # our own


@cases("copied", [copy.deepcopy, _pickled], ids=["copy", "pickle"])
def test_a_copy_knows_its_own_members(copied: Callable[[NamedParameters], NamedParameters]):
    original = NamedParameters(nn.Sequential(nn.Linear(2, 2)))
    assert original.has_same_members
    parameters = copied(original)
    assert parameters.has_same_members
    parameters.model.add_module("1", nn.Linear(2, 2))
    assert [name for name, _ in parameters.newcomers()] == ["1.weight", "1.bias"]
    assert original.has_same_members
