"""GradientEngine in a plain PyTorch loop: the models and arguments it takes and refuses."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    ConfigurationError,
    GradDrop,
    GradientEngine,
    GradientTransform,
    Identity,
    LayerGradDrop,
    ValueClip,
)
from lightning_sparsegrad.components import NamedParameters, find_layers, partition
from lightning_sparsegrad.transforms.base import Gradients, Window
from tests.cases import cases
from tests.tiny import tiny_gpt2_classifier, tiny_gpt_bigcode, tiny_opt
from tests.transforms.small import Small, assert_same_bits, set_gradients, snapshot


@pytest.fixture
def process_group() -> Iterator[None]:
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # not in torch's own list of names
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Wrapper(nn.Module):
    """The names that `torch.compile` gives the parameters of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


@cases("wrap", [nn.parallel.DistributedDataParallel, Wrapper], ids=["DDP", "compile"])
@pytest.mark.usefixtures("process_group")
def test_names_and_masks_do_not_depend_on_a_wrapper(wrap: Callable[[nn.Module], nn.Module]):
    transform = Chain([GradDrop(0.5, include="head.*"), LayerGradDrop(0.5), ComponentNormClip(0.1)])
    names = []
    for wrapped in (False, True):
        model = Small()
        engine = GradientEngine(wrap(model) if wrapped else model, transform)
        set_gradients(model, 0)
        with engine.window(1):
            engine.apply_()
        names.append(snapshot(model))
        assert "norm_before/head.weight" in engine.statistics
    assert_same_bits(*names)


@pytest.mark.usefixtures("process_group")
def test_parameters_sharded_over_one_process_are_whole():
    mesh, transform = init_device_mesh("cpu", (1,)), Chain([GradDrop(0.5), ComponentNormClip(0.1), ValueClip(0.05)])
    names = []
    for placement in (None, Shard(0), Shard(1), Replicate()):
        model = nn.Linear(4, 4, bias=False)
        if placement is not None:
            model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [placement]))
        engine = GradientEngine(model, transform)
        gradient = torch.arange(16.0).view(4, 4)
        if placement is not None:
            gradient = distribute_tensor(gradient, mesh, [placement])
        model.weight.grad = gradient
        with engine.window(1):
            engine.apply_()
        names.append(gradient.to_local() if isinstance(gradient, DTensor) else gradient)
    assert names[0].any()
    for other in names[1:]:
        assert torch.equal(other, names[0])


def test_sparse_gradients_are_refused_by_name():
    model = nn.ModuleDict({"words": nn.Embedding(5, 2, sparse=True), "head": nn.Linear(2, 1)})
    engine = GradientEngine(model, Identity())
    model["head"](model["words"](torch.tensor([1, 3]))).sum().backward()
    message = r"Gradients should be dense and real. Found a sparse gradient of `words.weight`\."
    with pytest.raises(ConfigurationError, match=message), engine.window(0):
        engine.apply_()
    assert engine.current is None


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no transform": (
        None,
        {},
        "Parameter `transform` should be a gradient transform, `Identity()` for none. Found `None`.",
    ),
    "a class": (
        Identity,
        {},
        "Parameter `transform` should be a gradient transform, `Identity()` for none. "
        "Found `<class 'lightning_sparsegrad.transforms.identity.Identity'>`.",
    ),
    **{
        f"total_steps = {value!r}": (
            Identity(),
            {"total_steps": value},
            f"Parameter `total_steps` should be a positive integer. Found `total_steps = {value!r}`.",
        )
        for value in (0, -5, 2.5, True, "10", float("nan"))
    },
    **{
        f"seed = {value!r}": (
            Identity(),
            {"seed": value},
            f"Parameter `seed` should be a non-negative integer. Found `seed = {value!r}`.",
        )
        for value in (-1, 0.5, True, None)
    },
}


@cases(("transform", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_an_argument_outside_its_range_is_refused(transform: Any, arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError) as refused:
        GradientEngine(Small(), transform, **arguments)
    assert str(refused.value) == message


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ConfigurationError, match=r"`model` should have parameters. Found `ReLU` without\."):
        GradientEngine(nn.ReLU(), Identity())


def test_a_module_put_in_later_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    engine = GradientEngine(model, Identity())
    model.append(nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(ConfigurationError, match=r"Found `1\.weight`, which is new"), engine.window(0):
        engine.apply_()


def test_a_parameter_put_in_later_is_refused() -> None:
    model = nn.Linear(2, 2)
    engine = GradientEngine(model, Identity())
    model.weight = nn.Parameter(torch.ones(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(ConfigurationError, match="Found `weight`, which is new"), engine.window(0):
        engine.apply_()


def test_a_complex_gradient_is_refused() -> None:
    model = nn.Linear(2, 2, dtype=torch.complex64)
    engine = GradientEngine(model, Identity())
    model(torch.ones(1, 2, dtype=torch.complex64)).abs().sum().backward()
    with pytest.raises(ConfigurationError, match="Found a complex gradient of `weight`"), engine.window(0):
        engine.apply_()


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Parameter `model` should be a module\. Found `list`"):
        GradientEngine([1], Identity())  # type: ignore[arg-type]


class Own(GradientTransform):
    """A typical user's clip, which on shards would clip each by its own norm."""

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        pass

    def apply_(self, gradients: Gradients, window: Window) -> None:
        for gradient in gradients.values():
            gradient.mul_(0.1 / float(gradient.norm()))


class OnShards(Own):
    on_shards = True


@pytest.mark.usefixtures("process_group")
@cases("within", [Own, lambda: Chain([GradDrop(0.5), Own()]), type("Derived", (OnShards,), {"apply_": Own.apply_})])
def test_a_transform_has_to_state_that_it_is_right_on_shards(within: Callable[[], GradientTransform]):
    model, mesh = nn.Linear(4, 4), init_device_mesh("cpu", (1,))
    GradientEngine(model, within())
    fully_shard(model, mesh=mesh)
    GradientEngine(model, Chain([GradDrop(0.5), OnShards()]))
    with pytest.raises(ConfigurationError, match=r"should state `on_shards = True` if .* Found `bias` sharded"):
        GradientEngine(model, within())


@pytest.mark.usefixtures("process_group")
def test_layers_are_found_where_some_of_the_blocks_are_sharded():
    model = nn.Sequential(
        nn.Embedding(3, 4), nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(4)))
    )
    layers = find_layers(NamedParameters(model))
    fully_shard(model[1][2], mesh=init_device_mesh("cpu", (1,)))  # type: ignore[index]
    assert find_layers(NamedParameters(model)) == layers


@pytest.mark.usefixtures("process_group")
@cases("make", [tiny_gpt2_classifier, tiny_gpt_bigcode, tiny_opt], ids=lambda make: make.__name__)
def test_modules_that_are_sharded_one_by_one_are_known_by_the_classes_they_had(make: Callable[..., nn.Module]):
    model, mesh = make(tie_word_embeddings=False), init_device_mesh("cpu", (1,))
    parameters = NamedParameters(model)
    components, layers = partition(parameters, "projection"), find_layers(parameters)
    for module in reversed(list(model.modules())):
        if not isinstance(module, nn.ModuleList):
            fully_shard(module, mesh=mesh)
    parameters = NamedParameters(model)
    assert all(hasattr(parameter, "full_tensor") for parameter in parameters.tensors.values())
    assert partition(parameters, "projection") == components
    assert find_layers(parameters) == layers
