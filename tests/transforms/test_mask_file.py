"""Mask files: what trains is what the file says, whoever wrote it; what does not fit is refused in one line."""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_sparsegrad import ConfigurationError, GradientEngine, SparseMask
from lightning_sparsegrad.functional import pack_bits
from lightning_sparsegrad.transforms.masks._mask_file import mask_file
from tests.cases import cases
from tests.transforms.frozen import OPTIMIZERS, Tiny, assert_frozen, made, masks_of, steps_of, weights
from tests.transforms.small import Small, assert_same_bits, on_one_thread

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

MASKS = {
    "embedding.weight": torch.arange(44).view(11, 4) % 3 == 0,
    "hidden.weight": torch.zeros(6, 4, dtype=torch.bool),
    "head.weight": torch.arange(3) == 1,  # of rows
    "head.bias": torch.tensor([True, True, True]),
}
FORMAT = {"format": "lightning_sparsegrad.mask", "version": "1"}
FILE = "mask.safetensors"


def write(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    save_file(dict(tensors), folder / FILE, None if metadata is None else dict(metadata))
    return str(folder / FILE)


def packed(folder: Path) -> str:
    (folder / FILE).write_bytes(mask_file(MASKS, {"density": None, "score": "fisher"}))
    return str(folder / FILE)


WAYS: dict[str, Callable[[Path], str]] = {
    "packed": packed,
    "booleans": lambda folder: write(folder, MASKS),
    "bytes": lambda folder: write(folder, {name: mask.to(torch.uint8) for name, mask in MASKS.items()}),
    "numbers": lambda folder: write(folder, {name: mask.to(torch.bfloat16) for name, mask in MASKS.items()}),
}


@cases("way", WAYS.values(), ids=WAYS)
def test_what_trains_is_what_the_file_says(way: Callable[[Path], str], tmp_path: Path):
    model, engine, stepping = made(SparseMask(score=way(tmp_path)), OPTIMIZERS["AdamW, fused"])
    held = {name: mask for member in engine.transform.flattened() for name, mask in member.masks.items()}  # type: ignore[attr-defined]
    assert_same_bits(held, MASKS)
    for _ in steps_of(engine, model, [stepping], range(5)):
        assert model.hidden.weight.grad is None, "nothing of it trains"
    masks = masks_of(engine)
    assert masks["hidden.bias"].all(), "what the file lacks trains"
    assert_frozen(weights(model), weights(Tiny()), masks)


def test_a_file_names_a_tied_parameter_by_any_name(tmp_path: Path):
    model = Small(tied=True)
    mask = torch.zeros(7, 4, dtype=torch.bool)
    mask[2] = True
    engine = GradientEngine(model, SparseMask(score=write(tmp_path, {"head.weight": mask})))
    (member,) = engine.transform.flattened()
    assert_same_bits(dict(member.masks), {"embeddings.weight": mask})  # type: ignore[attr-defined]


def test_the_density_of_a_file_may_be_repeated_but_not_changed(tmp_path: Path):
    (tmp_path / FILE).write_bytes(mask_file(MASKS, {"density": 0.25}))
    SparseMask(0.25, score=str(tmp_path / FILE))
    with pytest.raises(ConfigurationError, match=r"`density` should be left out .* \(0.25\). Found `density = 0.5`"):
        SparseMask(0.5, score=str(tmp_path / FILE))


def test_a_run_goes_on_with_the_mask_of_its_file(tmp_path: Path):
    path = packed(tmp_path)
    adamw = OPTIMIZERS["AdamW, foreach"]
    whole, engine, stepping = made(SparseMask(score=path), adamw)
    again, resumed, optimizer = made(SparseMask(score=path), adamw)
    for step in steps_of(engine, whole, [stepping], range(6)):
        if step == 2:
            again.load_state_dict(whole.state_dict())
            optimizer.load_state_dict(deepcopy(stepping.state_dict()))
            resumed.load_state_dict(engine.state_dict())
            for _ in steps_of(resumed, again, [optimizer], range(3, 6)):
                pass
    assert_same_bits(weights(again), weights(whole))


# ---------------------------------------------------------------- refused
def _with_shapes(folder: Path, shapes: Any, **metadata: str) -> str:
    tensors = {"embedding.weight": pack_bits(MASKS["embedding.weight"])}
    return write(folder, tensors, {**FORMAT, **metadata, "shapes": json.dumps(shapes)})


def _cut(folder: Path) -> str:
    path = Path(packed(folder))
    path.write_bytes(path.read_bytes()[:-3])
    return str(path)


def _text(folder: Path) -> str:
    (folder / FILE).write_text("not a mask")
    return str(folder / FILE)


SHAPES = {"embedding.weight": [11, 4]}
BROKEN: dict[str, tuple[Callable[[Path], str], str]] = {
    "truncated": (_cut, "mask file that can be read"),
    "foreign": (_text, "mask file that can be read"),
    "empty": (lambda folder: write(folder, {}), "mask file that can be read"),
    "absent": (lambda folder: str(folder / "other"), "path of a mask file.* is no file"),
    "folder": (str, "path of a mask file.* is no file"),
    "version": (
        partial(_with_shapes, shapes=SHAPES, version="2"),
        "it has the format 'lightning_sparsegrad.mask', version '2'",
    ),
    "format": (partial(_with_shapes, shapes=SHAPES, format="other"), "it has the format 'other', version '1'"),
    "bits": (partial(_with_shapes, shapes={"embedding.weight": [11, 5]}), "bytes hold the bits of shape"),
    "negative": (partial(_with_shapes, shapes={"embedding.weight": [-11, -4]}), "bytes hold the bits of shape"),
    "shapes": (partial(_with_shapes, shapes=[3]), "mask file that can be read"),
    "nothing": (partial(_with_shapes, shapes={"other": [3]}), "mask file that can be read"),
    "name": (lambda folder: write(folder, {"embeding.weight": MASKS["embedding.weight"]}), "Found `embeding.weight`"),
    "shape": (lambda folder: write(folder, {"head.weight": torch.ones(6, 3)}), r"Found shape \(6, 3\)"),
    "packed shape": (partial(_with_shapes, shapes={"embedding.weight": [4, 11]}), r"Found shape \(4, 11\)"),
    "values": (lambda folder: write(folder, {"head.bias": torch.tensor([0.0, 0.5, 1.0])}), "zeros and ones"),
    "undefined": (lambda folder: write(folder, {"head.bias": torch.full((3,), torch.nan)}), "zeros and ones"),
    "all frozen": (
        lambda folder: write(folder, {name: torch.zeros(p.shape) for name, p in Tiny().named_parameters()}),
        "entry that trains. Found none",
    ),
}


@cases("name", BROKEN)
def test_a_file_that_does_not_fit_is_refused_in_one_line(name: str, tmp_path: Path):
    make, message = BROKEN[name]
    path = make(tmp_path)
    with pytest.raises(ConfigurationError, match=message) as refused:
        GradientEngine(Tiny(), SparseMask(score=path))
    assert "\n" not in str(refused.value)
    assert "Traceback" not in str(refused.value)


@cases("argument", [{"structure": "row"}, {"scope": "tensor"}, {"calibration_windows": 3}], ids=str)
def test_arguments_that_a_file_leaves_without_effect_are_refused(argument: dict[str, Any], tmp_path: Path):
    with pytest.raises(ConfigurationError, match=next(iter(argument))):
        SparseMask(score=packed(tmp_path), **argument)
