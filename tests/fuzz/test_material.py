"""The good arguments of every strategy and schedule are accepted; those that are spoilt start from them."""

import pytest
from jsonargparse import ArgumentParser

from lightning_sparsegrad import GradientTransform, Schedule
from tests.fuzz.material import KINDS, arguments_of_strategies, strategy


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_good_arguments_are_accepted(kind: str) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(GradientTransform, "gradient_transform")
    made = parser.instantiate_classes(parser.parse_object(strategy(kind)["model"]["init_args"])).gradient_transform
    named = made.rate if issubclass(KINDS[kind], Schedule) else made
    assert type(named).__name__ == kind


def test_every_argument_is_spoilt() -> None:
    assert {kind for kind, _ in arguments_of_strategies()} == set(KINDS) - {"Identity"}
    assert {("TopDown", "width"), ("GradualUnfreezing", "unfreeze_every"), ("Chain", "transforms")} < {
        *arguments_of_strategies()
    }
