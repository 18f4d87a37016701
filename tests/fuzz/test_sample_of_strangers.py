"""A sample of strangers' files; `SPARSEGRAD_STRANGERS=300` in the environment tries as many, and prints each."""

import json
import os
import resource
import sys
from io import BytesIO
from itertools import islice
from pathlib import Path
from shutil import rmtree

import pytest
import torch

from lightning_sparsegrad.modules._description import MODEL_KEY
from tests.fuzz import trap
from tests.fuzz.cases import MARK, Case, CaseResult, try_in
from tests.fuzz.material import ROWS, task, to_yaml
from tests.fuzz.strangers import Strangers

COUNT = int(os.environ.get("SPARSEGRAD_STRANGERS", "12"))
SEED = int(os.environ.get("SPARSEGRAD_STRANGERS_SEED", "0"))
_MEMORY = 1 << 20  # KiB, by which the process may grow


@pytest.fixture(scope="module")
def checkpoint(model: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    config = task(model)
    config["trainer"] |= {"enable_checkpointing": True, "callbacks": {"class_path": "ModelCheckpoint", "init_args": {}}}
    files = {"task.yaml": to_yaml(config), "train.csv": ROWS.encode()}
    assert try_in(folder, Case("good", ("fit", "--config=task.yaml"), files)) == CaseResult("accepted")
    return next(folder.rglob("*.ckpt")).read_bytes()


def _fault(result: CaseResult) -> str:
    if result.failed:
        return f"{result.verdict}: {result.text[-300:]!r}"
    if result.verdict == "refused" and not result.text.isprintable():
        return f"controls in {result.text!r}"
    return "a trap has sprung" if trap.called else ""


@pytest.mark.long
@pytest.mark.timeout(300 + 10 * COUNT)
def test_strangers_run_no_code_and_end_in_one_line(model: str, checkpoint: bytes, tmp_path: Path) -> None:
    faults, before = {}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in islice(Strangers(model, checkpoint, SEED).at_random(), COUNT):
        (tmp_path / "run").mkdir()
        trap.called.clear()
        result = try_in(tmp_path / "run", case)
        rmtree(tmp_path / "run")
        if "SPARSEGRAD_STRANGERS" in os.environ:
            sys.stdout.write(f"{case.name}: {result.verdict} {result.text[:300]!r}\n")
        if fault := _fault(result):
            faults[case.name] = fault
    assert faults == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MEMORY


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        ({"class": "pipeline"}, "is not a model of transformers"),
        pytest.param({"class": "BertModel.__init__"}, "is not a model of transformers", marks=pytest.mark.long),
        pytest.param({"config": "{"}, "the configuration of its model", marks=pytest.mark.long),
        ({"config": '{"model_type": "own", "auto_map": {"AutoConfig": "code.C"}}'}, "the configuration of its model"),
        ({"tokenizer": "own", "tokenizer_options": {"trust_remote_code": True}}, "custom code"),
    ],
)
def test_an_export_runs_nothing_that_a_checkpoint_names(
    changed: dict[str, str], answer: str, checkpoint: bytes, tmp_path: Path
) -> None:
    content = torch.load(BytesIO(checkpoint), weights_only=True)
    content[MODEL_KEY] |= changed
    torch.save(content, tmp_path / "x.ckpt")
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["code.T", None]}}
    files = {"own/tokenizer_config.json": json.dumps(own).encode(), "own/code.py": f"open({MARK!r}, 'w')\n".encode()}
    result = try_in(tmp_path, Case("", ("export", "--ckpt_path=x.ckpt", "--output=out"), files))
    assert result.verdict == "refused"
    assert answer in result.text
