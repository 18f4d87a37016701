"""The message about parameters that do not train."""

import logging

import pytest
from torch import nn

from lightning_sparsegrad import GradualUnfreezing, HeadOnly
from lightning_sparsegrad.loops._trainable import frozen_modules, log_trainable
from tests.lightning.tasks import DOORS, Network, Regression, fit
from tests.tiny import tiny_bert

LOGGER = "lightning.pytorch.utilities.rank_zero"


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    caplog.set_level(logging.INFO, logger=LOGGER)
    return caplog


def lines(logged: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in logged.messages if "requires_grad" in message]


def frozen(*names: str) -> Network:
    network = Network()
    for name in names:
        network.get_submodule(name).requires_grad_(requires_grad=False)
    return network


def test_nothing_is_said_if_everything_trains(logged: pytest.LogCaptureFixture) -> None:
    log_trainable(Network())
    assert not logged.messages


def test_what_is_frozen_is_named_by_its_largest_module(logged: pytest.LogCaptureFixture) -> None:
    log_trainable(frozen("blocks"))
    assert lines(logged) == ["9 of 441 parameters train (2.0%). `requires_grad=False`: `blocks` (432)."]
    logged.clear()
    log_trainable(frozen("blocks.0", "blocks.2.0"))
    assert lines(logged) == [
        "225 of 441 parameters train (51.0%). `requires_grad=False`: `blocks.0` (144), `blocks.2.0` (72)."
    ]


def test_a_single_parameter_is_named(logged: pytest.LogCaptureFixture) -> None:
    network = Network()
    network.head.bias.requires_grad = False
    log_trainable(network)
    assert lines(logged) == ["440 of 441 parameters train (99.8%). `requires_grad=False`: `head.bias` (1)."]


def test_parts_of_many_layers_are_named_together(logged: pytest.LogCaptureFixture) -> None:
    model = tiny_bert(num_hidden_layers=12)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "value" in name or "classifier" in name
    log_trainable(model)
    (line,) = lines(logged)
    encoder = sum(parameter.numel() for parameter in model.get_submodule("bert.encoder").parameters())
    values = 12 * (32 * 32 + 32)
    assert f"`bert.encoder` ({encoder - values:,} of {encoder:,})" in line
    assert "`bert.embeddings` (" in line
    assert line.count("`") == 2 * 4  # requires_grad, embeddings, encoder, pooler
    assert "classifier" not in line


def test_parts_lie_in_no_other() -> None:
    names = [f"a.{layer}.{part}.weight" for layer in range(9) for part in "xyz"] + ["b.weight", "a.bias"]
    trained = {"a.0.x.weight", "a.1.x.weight", "a.2.x.weight", "a.bias"}
    assert frozen_modules(names, [name for name in names if name not in trained]) == ["a", "b"]


def test_a_small_share_is_not_rounded_to_nothing(logged: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict({"body": nn.Linear(1000, 1000, bias=False), "head": nn.Linear(10, 1, bias=False)})
    model["body"].requires_grad_(requires_grad=False)
    log_trainable(model)
    assert lines(logged) == ["10 of 1,000,010 parameters train (0.001%). `requires_grad=False`: `body` (1,000,000)."]


def test_it_is_a_warning_if_nothing_trains() -> None:
    with pytest.warns(UserWarning, match=r"^0 of 441 parameters train \(0%\)"):
        log_trainable(frozen("blocks", "head"))


class Frozen(Regression):
    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        self.network.blocks.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("door", DOORS)
def test_it_is_said_at_the_start_of_every_fit(door: str, logged: pytest.LogCaptureFixture) -> None:
    fit(door, HeadOnly(), Frozen)
    assert lines(logged) == ["9 of 441 parameters train (2.0%). `requires_grad=False`: `network.blocks` (432)."]


@pytest.mark.parametrize("strategy", [HeadOnly(), GradualUnfreezing()], ids=repr)
def test_what_a_strategy_drops_is_not_frozen(strategy: HeadOnly, logged: pytest.LogCaptureFixture) -> None:
    fit("module", strategy)
    assert not lines(logged)
