"""Files and flags without a class refine a transform; naming the class of a member replaces only that member."""

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from tests.cli.helpers import MASK, STRATEGIES, Arguments, alone, any_model, in_any, strategy

REFINEMENTS: list[Any] = [
    {"init_args": {"rate": 0.4}},
    {"rate": 0.4},
    {"init_args.rate": 0.4},
    "--model.gradient_transform.rate=0.4",
    "a file of the transform",
]


def test_what_names_no_class_refines(tmp_path: Path, subtests: pytest.Subtests) -> None:
    parser = any_model()
    for refinement in REFINEMENTS:
        with subtests.test(refinement=str(refinement)):
            arguments = Arguments(tmp_path).file(in_any(STRATEGIES["grad_drop"]))
            if isinstance(refinement, dict):
                arguments.file(in_any(refinement))
            elif refinement.startswith("--"):
                arguments.flags(refinement)
            else:
                arguments.file({"init_args": {"rate": 0.4}}, flag="--model.gradient_transform")
            init_args = strategy(parser.parse_args(arguments))["init_args"]
            assert (init_args["rate"], init_args["seed"]) == (0.4, 9)


def test_schedule_named_anew_replaces_the_schedule_alone(arguments: Arguments) -> None:
    schedule = {"class_path": "Cosine", "init_args": {"start": 0.9}}
    arguments.file(in_any(STRATEGIES["linear"])).file(in_any({"init_args": {"rate": schedule}}))
    with pytest.raises(Exception, match="required: end"):  # 0.25 was the end of the linear one
        any_model().parse_args(arguments)
    init_args = strategy(any_model().parse_args(arguments.flags("--model.gradient_transform.rate.end=0.1")))[
        "init_args"
    ]
    assert init_args["rescale"] is True
    assert init_args["rate"]["init_args"]["start"] == 0.9


def test_schedule_named_by_a_flag_replaces_the_schedule(arguments: Arguments) -> None:
    rate = "--model.gradient_transform.rate"
    arguments.file(in_any(STRATEGIES["linear"])).flags(f"{rate}=Cosine", f"{rate}.start=0.9")
    with pytest.raises(Exception, match="required: end"):
        any_model().parse_args(arguments)


def mask_and_clip(config: Namespace) -> tuple[Any, Any]:
    transforms = strategy(config)["init_args"]["transforms"]
    assert list(transforms) == ["mask", "clip"]
    return transforms["mask"], transforms["clip"]


ADDRESSES: dict[str, dict[str, Any]] = {
    "mask.rate=0.6": {"rate": 0.6},
    "mask.init_args.rate=0.6": {"rate": 0.6},
    "mask.seed=5": {"seed": 5},
    "mask.rate.end=0.1": {"rate.end": 0.1},
    "mask.init_args.rate.init_args.end=0.1": {"rate.end": 0.1},
}


def test_every_argument_in_a_named_chain_has_an_address(arguments: Arguments, subtests: pytest.Subtests) -> None:
    parser = any_model()
    arguments.file(in_any(STRATEGIES["named"]))
    for flag, changed in ADDRESSES.items():
        with subtests.test(flag=flag):
            mask, clip = mask_and_clip(parser.parse_args(arguments))
            for name, value in changed.items():
                head, _, rest = name.partition(".")
                if rest:
                    mask["init_args"][head]["init_args"][rest] = value
                else:
                    mask["init_args"][head] = value
            refined = parser.parse_args([*arguments, f"--model.gradient_transform.transforms.{flag}"])
            assert mask_and_clip(refined) == (mask, clip)


def test_named_part_of_a_chain_is_replaced_in_its_place(tmp_path: Path, subtests: pytest.Subtests) -> None:
    parser = any_model()
    address = "--model.gradient_transform.transforms.mask"
    expected = alone(MASK, tmp_path)
    for by in (
        [in_any({"init_args": {"transforms": {"mask": MASK}}})],
        [f"{address}=LayerGradDrop", f"{address}.rate=0.6"],
        [f"{address}.class_path", "LayerGradDrop", f"{address}.rate", "0.6"],
    ):
        with subtests.test(by=str(by)):
            arguments = Arguments(tmp_path).file(in_any(STRATEGIES["named"]))
            _, clip = mask_and_clip(parser.parse_args(arguments))
            for each in by:
                arguments = arguments.flags(each) if isinstance(each, str) else arguments.file(each)
            assert mask_and_clip(parser.parse_args(arguments)) == (expected, clip)


def test_a_name_that_the_chain_has_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = any_model()
    chain = Arguments(tmp_path).file(in_any(STRATEGIES["named"]))
    with pytest.raises(Exception, match=r"`maks` is not a transform at `model.gradient_transform.transforms`"):
        parser.parse_args([*chain, "--model.gradient_transform.transforms.maks.rate=0.6"])
    with pytest.raises(Exception, match=r"`maks` is not a transform of the chain. Near matches: `mask`"):
        parser.parse_args(chain.file(in_any({"init_args": {"transforms": {"maks": {"init_args": {"rate": 0.6}}}}})))


def test_named_transform_of_a_chain_is_refined_by_a_file(arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["named"]))
    mask, clip = mask_and_clip(any_model().parse_args(arguments))
    arguments.file(in_any({"init_args": {"transforms": {"mask": {"init_args": {"rate": 0.6}}}}}))
    mask["init_args"]["rate"] = 0.6
    assert mask_and_clip(any_model().parse_args(arguments)) == (mask, clip)


def test_part_of_a_list_is_replaced_in_its_place(arguments: Arguments) -> None:
    refined_and_replaced = [{"init_args": {"rate": 0.9}}, MASK]
    arguments.file(in_any(STRATEGIES["list"])).file(in_any({"init_args": {"transforms": refined_and_replaced}}))
    drop, mask = strategy(any_model().parse_args(arguments))["init_args"]["transforms"]
    assert (drop["init_args"]["rate"], drop["init_args"]["seed"]) == (0.9, 1)
    assert mask == alone(MASK, arguments.folder)
