"""Checkpoint files that are damaged, truncated, or not checkpoints."""

import io
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from safetensors.torch import save
from transformers import BertConfig, BertForSequenceClassification

from lightning_sparsegrad import GradientTransformCallback, Identity
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.export._model import build
from lightning_sparsegrad.files._checksums import DamagedError, require_intact
from lightning_sparsegrad.modules._description import describe
from lightning_sparsegrad.resume._checkpoints import stored_run
from tests.cases import cases
from tests.lightning.conftest import run_of_its_own  # noqa: F401

CONTENT = {"state_dict": {"weight": torch.arange(64.0)}, "epoch": 3, "hyper_parameters": {"lr": 0.1}}


def saved(**options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(CONTENT, buffer, **options)
    return buffer.getvalue()


def compressed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as before, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as after:
        for record in before.infolist():
            after.writestr(record.filename, before.read(record))
    return buffer.getvalue()


def loads_something_else(file: Path) -> bool:
    try:
        loaded = torch.load(file, weights_only=True)
    except Exception:  # whatever torch makes of it
        return False
    return str(loaded) != str(CONTENT)


def test_no_flipped_bit_changes_what_is_loaded(tmp_path: Path) -> None:
    draw, whole = random.Random(0), saved()  # noqa: S311  # no secret
    silent = refused = 0
    for number in range(200):
        spoilt = bytearray(whole)
        spoilt[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file = tmp_path / f"{number}.ckpt"
        file.write_bytes(spoilt)
        try:
            require_intact(file)
        except DamagedError:
            refused += 1
        else:
            silent += loads_something_else(file)
    assert silent == 0
    assert refused > 50  # the rest are bits of padding, which stand for nothing


@cases(
    "content",
    [
        pytest.param(lambda: b"", id="empty"),
        pytest.param(lambda: saved()[: len(saved()) // 2], id="half"),
        pytest.param(lambda: saved()[:-1], id="cut by one byte"),
        pytest.param(lambda: saved()[1:], id="without the first byte"),
        pytest.param(lambda: saved() + bytes(range(256)) * 400, id="with garbage behind it"),
        pytest.param(compressed, id="compressed"),
        pytest.param(lambda: saved(_use_new_zipfile_serialization=False), id="of an old torch"),
        pytest.param(lambda: pickle.dumps({"state_dict": {}}), id="pickle"),
        pytest.param(lambda: save({"weight": torch.zeros(2)}), id="safetensors"),
        pytest.param(lambda: b"text,label\n", id="text"),
    ],
)
def test_what_is_no_archive_as_written_is_refused(content: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(content())
    with pytest.raises(DamagedError, match=r"as it was written. Found `ckpt_path = .*x.ckpt`: "):
        require_intact(tmp_path / "x.ckpt")


def test_a_record_that_is_said_to_be_huge_is_not_read(tmp_path: Path) -> None:
    """Return a zip bomb: records that overlap, or that no file could hold."""
    bomb = bytearray(saved())
    start = bomb.rindex(b"PK\x01\x02")  # the last entry of the directory
    bomb[start + 20 : start + 28] = (2**31).to_bytes(4, "little") * 2
    (tmp_path / "x.ckpt").write_bytes(bomb)
    with pytest.raises(DamagedError, match="larger than the file"):
        require_intact(tmp_path / "x.ckpt")


def test_a_file_is_read_again_once_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    file.write_bytes(saved()[:-1])
    with pytest.raises(DamagedError):
        require_intact(file)
    file.write_bytes(saved())
    require_intact(file)


def test_folders_and_remote_names_are_passed_by(tmp_path: Path) -> None:
    for name in (None, tmp_path, "s3://bucket/x.ckpt"):
        require_intact(name)


@pytest.fixture
def flipped(tmp_path: Path) -> Path:
    """Return a checkpoint from which torch loads another weight than was written."""
    torch.manual_seed(0)
    model, file = BoringModel(), tmp_path / "x.ckpt"
    settings = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "enable_model_summary": False}
    trainer = Trainer(max_steps=1, limit_val_batches=0, enable_checkpointing=False, **settings)  # type: ignore[arg-type]
    trainer.fit(model)
    trainer.save_checkpoint(file)
    whole = file.read_bytes()
    weights = model.layer.weight.detach().numpy().tobytes()
    offset = whole.index(weights) + 3  # the exponent of the first
    file.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x40]) + whole[offset + 1 :])
    assert not torch.equal(torch.load(file, weights_only=True)["state_dict"]["layer.weight"], model.layer.weight)
    return file


@pytest.mark.filterwarnings("ignore:.*num_workers")
def test_a_trainer_does_not_go_on_from_one_that_is_damaged(flipped: Path, tmp_path: Path) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path, max_steps=2, limit_val_batches=0, enable_checkpointing=False, logger=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        callbacks=GradientTransformCallback(Identity()),
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="Bad CRC-32"):
        trainer.fit(BoringModel(), ckpt_path=flipped)


def test_a_folder_that_is_no_text_is_none(tmp_path: Path) -> None:
    torch.save({"lightning_sparsegrad_folder": torch.ones(2)}, tmp_path / "x.ckpt")
    assert stored_run(tmp_path / "x.ckpt").folder == ""


def test_padding_that_is_no_id_is_refused_by_an_export() -> None:
    model = BertForSequenceClassification(
        BertConfig(vocab_size=2, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
    )
    described = {**describe(model, {}), "padding": b"bytes"}
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    with pytest.raises(ConfigurationError, match="whose `padding` is of type `bytes`"):
        build(described, state, "x.ckpt")
