"""The good arguments of every strategy and schedule, from which bad ones are made, are accepted."""

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from lightning_sparsegrad import ConfigurationError, GradientTransform, Schedule
from tests.fuzz.material import KINDS, arguments_of_strategies, good_arguments, strategy


def test_good_arguments_are_accepted(subtests: pytest.Subtests) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(GradientTransform, "gradient_transform")
    for kind in sorted(KINDS):
        with subtests.test(kind):
            try:
                parsed = parser.parse_object(strategy(kind)["model"]["init_args"])
                made = parser.instantiate_classes(parsed).gradient_transform
            except (ArgumentError, ConfigurationError) as error:
                pytest.fail(
                    f"{kind} should accept {good_arguments(kind)}: a strategy what its overlay says, a schedule 0.5 "
                    f"for every argument without a default. {error}",
                    pytrace=False,
                )
            named = made.rate if issubclass(KINDS[kind], Schedule) else made
            assert type(named).__name__ == kind


def test_every_argument_is_spoilt() -> None:
    assert {kind for kind, _ in arguments_of_strategies()} == set(KINDS) - {"Identity"}
    assert {("TopDown", "width"), ("GradualUnfreezing", "unfreeze_every"), ("Chain", "transforms")} < {
        *arguments_of_strategies()
    }
