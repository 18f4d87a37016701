"""Without a class, files and flags refine a transform; a part of it named anew is replaced alone."""

from typing import Any

import pytest
from jsonargparse import Namespace

from tests.cli.helpers import MASK, STRATEGIES, Arguments, alone, any_model, in_any, strategy


@pytest.mark.parametrize(
    "refinement",
    [
        {"init_args": {"rate": 0.4}},
        {"rate": 0.4},
        {"init_args.rate": 0.4},
    ],
    ids=str,
)
def test_file_without_a_class_refines(refinement: dict[str, Any], arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"])).file(in_any(refinement))
    init_args = strategy(any_model().parse_args(arguments))["init_args"]
    assert (init_args["rate"], init_args["seed"]) == (0.4, 9)


def test_flag_without_a_class_refines(arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"])).flags("--model.gradient_transform.rate=0.4")
    init_args = strategy(any_model().parse_args(arguments))["init_args"]
    assert (init_args["rate"], init_args["seed"]) == (0.4, 9)


def test_file_of_a_transform_without_a_class_refines(arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["grad_drop"]))
    arguments.file({"init_args": {"rate": 0.4}}, flag="--model.gradient_transform")
    init_args = strategy(any_model().parse_args(arguments))["init_args"]
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


@pytest.mark.parametrize(
    ("flag", "changed"),
    [
        ("mask.rate=0.6", {"rate": 0.6}),
        ("mask.init_args.rate=0.6", {"rate": 0.6}),
        ("mask.seed=5", {"seed": 5}),
        ("mask.rate.end=0.1", {"rate.end": 0.1}),
        ("mask.init_args.rate.init_args.end=0.1", {"rate.end": 0.1}),
    ],
)
def test_every_argument_in_a_named_chain_has_an_address(
    flag: str, changed: dict[str, Any], arguments: Arguments
) -> None:
    arguments.file(in_any(STRATEGIES["named"]))
    mask, clip = mask_and_clip(any_model().parse_args(arguments))
    for name, value in changed.items():
        head, _, rest = name.partition(".")
        if rest:
            mask["init_args"][head]["init_args"][rest] = value
        else:
            mask["init_args"][head] = value
    refined = any_model().parse_args(arguments.flags(f"--model.gradient_transform.transforms.{flag}"))
    assert mask_and_clip(refined) == (mask, clip)


@pytest.mark.parametrize("by", ["file", "flag", "class_path flag"])
def test_named_part_of_a_chain_is_replaced_in_its_place(by: str, arguments: Arguments) -> None:
    arguments.file(in_any(STRATEGIES["named"]))
    _, clip = mask_and_clip(any_model().parse_args(arguments))
    address = "--model.gradient_transform.transforms.mask"
    if by == "file":
        arguments.file(in_any({"init_args": {"transforms": {"mask": MASK}}}))
    elif by == "flag":
        arguments.flags(f"{address}=LayerGradDrop", f"{address}.rate=0.6")
    else:
        arguments.flags(f"{address}.class_path", "LayerGradDrop", f"{address}.rate", "0.6")
    assert mask_and_clip(any_model().parse_args(arguments)) == (alone(MASK, arguments.folder), clip)


def test_named_part_of_a_chain_is_refined_by_a_file(arguments: Arguments) -> None:
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
