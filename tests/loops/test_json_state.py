"""States of strategies as JSON: what comes back is what went in, and nothing else is read."""

import base64
import json
import pickle
import zlib
from io import BytesIO
from math import inf, isnan, nan

import pytest
import torch

from lightning_sparsegrad import ConfigurationError
from lightning_sparsegrad.loops._json_state import from_json, to_json
from tests.cases import cases

TENSORS = [
    torch.arange(6).view(2, 3)[:, ::2],
    torch.tensor([inf, -inf, nan, 1e-45]),
    torch.tensor([True, False]),
    torch.zeros(0, 4),
    torch.tensor(2.5, dtype=torch.bfloat16),
    torch.nn.Parameter(torch.ones(2)),
]


@cases("tensor", TENSORS, ids=lambda tensor: str(tensor.dtype))
def test_a_tensor_comes_back_bit_for_bit(tensor: torch.Tensor) -> None:
    back = from_json(json.loads(json.dumps(to_json({"deep": [tensor]}))))["deep"][0]
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert torch.equal(back.float().nan_to_num(nan=-7.0), tensor.detach().float().nan_to_num(nan=-7.0))


def test_only_the_entries_of_a_view_are_kept() -> None:
    whole = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    assert len(json.dumps(to_json(whole[:3]))) < 3000


def test_numbers_texts_and_lists_come_back() -> None:
    state = {"step": 3, "text": "tensor", "none": None, "flags": [True, 0.1, inf, -inf], "empty": {}}
    assert from_json(json.loads(json.dumps(to_json(state), allow_nan=False))) == state
    assert isnan(from_json(to_json(nan)))


@cases("damaged", [{"tensor": "?"}, {"tensor": ""}, {"tensor": 3}, {"number": "many"}])
def test_what_was_damaged_is_refused(damaged: object) -> None:
    with pytest.raises(ConfigurationError, match="should hold tensors as they were saved"):
        from_json({"state": [damaged]})


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("it ran",)


def test_nothing_in_a_state_runs(capsys: pytest.CaptureFixture[str]) -> None:
    buffer = BytesIO()
    torch.save(Trap(), buffer)
    torch.load(BytesIO(buffer.getvalue()), weights_only=False)
    assert "it ran" in capsys.readouterr().out  # the trap works
    for content in (buffer.getvalue(), pickle.dumps(Trap())):
        with pytest.raises(ConfigurationError, match="should hold tensors"):
            from_json({"tensor": base64.b64encode(zlib.compress(content)).decode()})
    assert "it ran" not in capsys.readouterr().out
