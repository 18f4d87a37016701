"""The gradients of components, gathered anew in each window: with a memory as without it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_sparsegrad.components import Component, NamedParameters, partition
from lightning_sparsegrad.components._held import Gatherer, Held
from tests.cases import cases
from tests.tiny import tiny_gpt2


def _gradients(model: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) for name, tensor in NamedParameters(model).tensors.items()
    }


def _assert_same(gather: Gatherer, components: list[Component], gradients: Mapping[str, Tensor]) -> Held:
    actual, expected = gather(components, gradients), Held.of(components, gradients)
    assert (actual.groups, actual.sizes, actual.indices, actual.names) == (
        expected.groups,
        expected.sizes,
        expected.indices,
        expected.names,
    )
    assert len(actual.tensors) == len(expected.tensors)
    for tensor, other in zip(actual.tensors, expected.tensors, strict=True):
        assert tensor.data_ptr() == other.data_ptr()
        assert (tensor.shape, tensor.stride()) == (other.shape, other.stride())
    return actual


@cases("kind", ["projection", "tensor", "module", "block", "global"])
def test_what_is_remembered_follows_the_gradients_that_are_present(kind: str):
    model, gather = tiny_gpt2(), Gatherer()
    components = partition(NamedParameters(model), kind)  # type: ignore[arg-type]  # one of the names
    names = list(NamedParameters(model))
    first = _assert_same(gather, components, _gradients(model, 0))
    assert first.names == [component.name for component in components]
    for window, absent in enumerate(([], names[1:2], names[:-1], names, names[2:5], [], [])):
        gradients = {name: each for name, each in _gradients(model, window).items() if name not in absent}
        _assert_same(gather, components, gradients)


def test_other_components_are_gathered_in_their_order():
    model, gather = tiny_gpt2(), Gatherer()
    components, gradients = partition(NamedParameters(model), "projection"), _gradients(model, 0)
    for some in (components, components[::2], components[::-1], [], components):
        _assert_same(gather, some, gradients)


def test_a_list_of_components_that_changes_in_place_is_seen():
    model, gather = tiny_gpt2(), Gatherer()
    components, gradients = partition(NamedParameters(model), "tensor"), _gradients(model, 0)
    _assert_same(gather, components, gradients)
    del components[3]
    _assert_same(gather, components, gradients)
