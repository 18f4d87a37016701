from pathlib import Path

import pytest

from lightning_sparsegrad.main import main

ROOT = Path(__file__).parents[2]
QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.yaml'}"
MASK, CLIP = "--model.gradient_transform.transforms.mask", "--model.gradient_transform.transforms.clip"
TEXT = "--data=TextDataModule"
MISNAMED = "model: {init_args: {gradient_transform: {init_args: {transforms: {maks: {init_args: {rate: 0.6}}}}}}}"


ANSWERS: list[tuple[list[str], str]] = [
    ([f"{MASK}.rate=1.5"], "Parameter `rate` should be in [0, 1]. Found `rate = 1.5`."),
    ([f"{MASK}.rate=.nan"], "Parameter `rate` should be in [0, 1]. Found `rate = nan`."),
    ([f"{CLIP}.max_norm=-1"], "Parameter `max_norm` should be positive. Found `max_norm = -1.0`."),
    ([f"{CLIP}.max_norm=.nan"], "Parameter `max_norm` should be positive. Found `max_norm = nan`."),
    (
        [f"{MASK}.exclude=*classifer*"],
        "Found `*classifer*`, which matches none of 105. Near matches: `model.classif",
    ),
    (["--model.gradient_transform=GradDorp"], "`GradDorp` is neither a file nor a class that fits"),
    ([f"{MASK}.rat=0.5"], "`rat` is not an argument of `GradDrop`"),
    (
        ["--model.gradient_transform.transforms.maks.rate=0.6"],
        "`maks` is not a transform at `model.gradient_transform.transforms`, "
        "in `--model.gradient_transform.transforms.maks.rate=0.6`. Near matches: `mask`.",
    ),
    (["--config=maks.yaml"], "`maks` is not a transform of the chain. Near matches: `mask`"),
    (["--model.optimizer.lr=-1"], "Parameter `optimizer` should have arguments that it accepts. Found: Invalid"),
    (["--data.batch_size=null"], "Parameter `batch_size` should be at least 1. Found `batch_size = None`."),
    (["--trainer.accumulate_grad_batches=0"], "Found `accumulate_grad_batches = 0`."),
    (["--trainer.val_check_interval=1000"], "`val_check_interval` (1000) must be less than or equal"),
    (["--ckpt_path=labels.csv"], "Found `ckpt_path = labels.csv`"),
    (["--trainer.default_root_dir=good.csv", "--trainer.logger=true"], "Not a directory"),
    (["--trainer.gradient_clip_val=1.0"], "Parameter `gradient_clip_val` of the Trainer should be omitted"),
    (["--model.model_name_or_path=package:not-there/model"], "run `pip install not-there`"),
    (["--model.model_name_or_path=empty"], "Parameter `model_name_or_path` should be a reachable hub id"),
    ([TEXT, "--data.data_files.train=not_there.csv"], "Found `data_files.train = 'not_there.csv'`"),
    ([TEXT, "--data.data_files.train=empty.csv"], "empty.csv"),
    ([TEXT, "--data.data_files.train=labels.csv"], "Labels in column `label` should have at least two classes"),
    ([TEXT, "--data.data_files.train=wide.csv"], "wide.csv: line 2 should have 2 fields"),
    ([TEXT, "--data.data_files.train=good.csv", "--data.text_columns=txt"], "Near matches: `text`"),
]


@pytest.mark.parametrize(
    "answers", [ANSWERS[::4], pytest.param([*ANSWERS[1::4], *ANSWERS[2::4], *ANSWERS[3::4]], marks=pytest.mark.long)]
)
def test_bad_input_is_answered_in_one_line(
    answers: list[tuple[list[str], str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    subtests: pytest.Subtests,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Path("empty").mkdir()
    Path("empty.csv").touch()
    Path("labels.csv").write_text("text,label\na,7\nb,7\n")
    Path("wide.csv").write_text("text,label\na, b,0\nc,1\n")
    Path("maks.yaml").write_text(MISNAMED)
    Path("good.csv").write_text("text,label\na,0\nb,1\n")
    quiet = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.max_steps=1"]
    for arguments, answer in answers:
        with subtests.test(" ".join(arguments)):
            with pytest.raises(SystemExit) as stopped:
                main(["fit", QUICKSTART, *quiet, *arguments])
            last = capsys.readouterr().err.splitlines()[-1]
            assert stopped.value.code == 2
            assert last.startswith("error: ")
            assert answer in last
