"""`sparsegrad calibrate`: its mask is that of a slow loop over samples, and nothing but the file is left behind."""

import json
import resource
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_sparsegrad import NamedParameters, SparseGradCLI
from lightning_sparsegrad.calibrate._command import CalibrateCLI
from lightning_sparsegrad.main import main
from lightning_sparsegrad.transforms.masks._mask_file import read_mask_file
from tests.calibrate.tasks import SAMPLES, TRAINER, Plain, Task, largest, samples, sums, task
from tests.cases import cases

FILE = "a mask.safetensors"
ORDER = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(2)).tolist()
DATA = torch.stack(samples())
TASK = [f"--model={Task.__module__}.Task", *TRAINER]
PLAIN = f"--model={Plain.__module__}.Plain"
BY_HAND = (
    f"{{class_path: SparseMask, init_args: {{score: {FILE}}}}} in place of `SparseMask(density=0.1, score='fisher')`"
)
TO_FILE = f"--output={FILE}"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def calibrated(*arguments: str) -> CalibrateCLI:
    """Calibrate as the command does, into a new file; nothing else is written, and no weight moves."""
    Path(FILE).unlink(missing_ok=True)
    before = {*Path.cwd().rglob("*")}
    cli = CalibrateCLI(args=["fit", *arguments, TO_FILE], save_config_callback=None)
    assert {*Path.cwd().rglob("*")} - before == {Path(FILE).absolute()}
    return cli


def masks(path: str = FILE) -> dict[str, Tensor]:
    file = read_mask_file(path)
    return dict(file.on(NamedParameters(Plain())))


def entries(path: str = FILE) -> dict[str, set[int]]:
    """Return the indices of the entries of a mask file, without tensors of which none trains."""
    indices = {name: set(mask.flatten().nonzero().flatten().tolist()) for name, mask in masks(path).items()}
    return {name: each for name, each in indices.items() if each}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    Path(FILE).unlink(missing_ok=True)
    capsys.readouterr()
    main(["calibrate", *arguments, TO_FILE])
    return capsys.readouterr().out.splitlines()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["calibrate", *arguments])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line.removesuffix(" (SPARSEGRAD_DEBUG=1 shows the full text.)")


# ------------------------------------------------------------ the mask
@cases(("score", "most"), [("fisher", SAMPLES + 1), ("fisher", 5), ("gradient", SAMPLES), ("movement", 7)])
def test_a_mask_is_that_of_a_slow_loop(score: str, most: int) -> None:
    cli = calibrated(*task(score=score), f"--samples={most}")
    expected = largest(sums(Plain(), DATA[ORDER[:most], None], score), 0.1)
    assert entries() == expected
    assert sum(map(len, expected.values())) == 17  # of 168 entries
    for name, tensor in cli.model.state_dict().items():
        assert torch.equal(tensor, Plain().state_dict()[name]), f"{name} moved"
    assert read_mask_file(FILE).density == 0.1


def test_no_step_is_taken_even_by_an_optimizer_that_needs_no_gradient() -> None:
    cli = calibrated(*task(), "--model.fault=shrinks", "--samples=3")
    assert torch.equal(cli.model.head.weight, Plain().head.weight)
    assert entries() == largest(sums(Plain(), DATA[ORDER[:3], None], "fisher"), 0.1)


def test_batches_and_dropout_would_give_another_mask() -> None:
    scores = sums(Plain(), DATA[ORDER, None], "fisher")
    in_batches = {name: torch.zeros_like(tensor) for name, tensor in scores.items()}
    module = Plain().eval()
    for batch in torch.split(DATA[ORDER], 4):
        module.zero_grad()
        torch.autograd.backward(module.loss(batch))
        for name, tensor in module.named_parameters():
            assert tensor.grad is not None
            in_batches[name] += tensor.grad.square()
    assert largest(in_batches, 0.1) != largest(scores, 0.1)


@pytest.mark.long
def test_rows_are_chosen_by_the_mean_of_their_entries() -> None:
    calibrated(*task(structure="row", density=0.3, exclude="*.bias"))
    scores = sums(Plain(), DATA[ORDER, None], "fisher")
    rows = {name: tensor.double().mean(1) for name, tensor in scores.items() if tensor.ndim > 1}
    assert entries() == largest({name: tensor.float() for name, tensor in rows.items()}, 0.3)


@pytest.mark.long
def test_a_mask_in_a_chain_is_that_of_itself_alone(capsys: pytest.CaptureFixture[str]) -> None:
    calibrated(*task())
    alone = entries()
    mask = {"class_path": "SparseMask", "init_args": {"density": 0.1}}
    clip = {"class_path": "ComponentNormClip", "init_args": {"max_norm": 1e-6}}
    chain = {"class_path": "Chain", "init_args": {"transforms": {"clip": clip, "mask": mask}}}
    lines = printed(capsys, *TASK, f"--model.gradient_transform={json.dumps(chain)}")
    assert entries() == alone
    flag = "--model.gradient_transform.transforms.mask"
    assert lines[0].endswith(f"Train with {flag}=SparseMask '{flag}.score={FILE}'")
    chain["init_args"]["transforms"] = [clip, mask]  # type: ignore[index]
    lines = printed(capsys, *TASK, f"--model.gradient_transform={json.dumps(chain)}")
    assert lines[0].endswith(BY_HAND), "no flag leads into a list"


def test_a_callback_calibrates_like_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    calibrated(*task())
    alone = entries()
    mask = {"class_path": "SparseMask", "init_args": {"density": 0.1}}
    callbacks = [{"class_path": "GradientTransformCallback", "init_args": {"gradient_transform": mask}}]
    callbacks += [{"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": 0.1}}]
    lines = printed(
        capsys, f"--model={Plain.__module__}.Plain", f"--trainer.callbacks={json.dumps(callbacks)}", *TRAINER
    )
    assert entries() == alone
    assert lines == [
        f"`{FILE}` has a mask of 8 tensors: 17 of 168 entries train, chosen by 'fisher' of 12 samples. "
        f"Train with {BY_HAND}",
        "note: left out, whatever it would change: `StochasticWeightAveraging`",
        "note: the data have 12 samples, fewer than the 1,024 asked for",
    ]


@pytest.mark.parametrize("alone", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_fit_trains_what_the_file_says(alone: bool, capsys: pytest.CaptureFixture[str]) -> None:
    mask = {"class_path": "SparseMask", "init_args": {"density": 0.1, "calibration_windows": 3, "freeze": "gradients"}}
    clip = {"class_path": "ComponentNormClip", "init_args": {"max_norm": 1.0}}
    strategy = mask if alone else {"class_path": "Chain", "init_args": {"transforms": {"a": clip, "b": mask}}}
    arguments = [*TASK, f"--model.gradient_transform={json.dumps(strategy)}"]
    (line, _) = printed(capsys, *arguments)
    flags = shlex.split(line.partition("Train with ")[2])
    assert [flag.rpartition(".")[2] for flag in flags[1:]] == ["safetensors", "freeze=gradients"]
    trained = entries()
    quiet = ["logger=false", "enable_checkpointing=false", "enable_progress_bar=false", "enable_model_summary=false"]
    quiet = [f"--trainer.{each}" for each in [*quiet, "devices=1", "limit_train_batches=null"]]
    cli = SparseGradCLI(args=["fit", *arguments, *quiet, *flags[:2]])
    start = Plain().state_dict()
    changed = {name: (tensor != start[name]).flatten().nonzero() for name, tensor in cli.model.state_dict().items()}
    moved = {name: set(indices.flatten().tolist()) for name, indices in changed.items() if len(indices)}
    assert {name for name in moved if name.startswith("head")} == {"head.weight", "head.bias"}
    assert {name: indices for name, indices in moved.items() if not name.startswith("head")} == trained


@pytest.mark.long
def test_weights_may_be_those_of_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    other = Plain()
    other.load_state_dict({name: torch.randn_like(tensor) for name, tensor in other.state_dict().items()})
    torch.save({"state_dict": other.state_dict(), "global_step": 7, "pytorch-lightning_version": "2.6.0"}, "other.ckpt")
    lines = printed(capsys, *task(score="movement"), "--ckpt_path=other.ckpt")
    assert "note: weights of step 7" in lines
    assert entries() == largest(sums(other, DATA[ORDER, None], "movement"), 0.1)
    Path("broken.ckpt").write_bytes(b"x")
    assert "broken.ckpt" in refused(capsys, *task(), "--ckpt_path=broken.ckpt", "--output=other")


@pytest.mark.long
@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_half_precision_is_computed_in_float32(precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *task(), f"--trainer.precision={precision}")
    assert f"note: computed in float32, not `precision = {precision}`: squares would underflow" in lines
    assert entries() == largest(sums(Plain(), DATA[ORDER, None], "fisher"), 0.1)


# ------------------------------------------------------------ data
@pytest.mark.long
@cases(
    ("data", "order"),
    [("backwards", [*range(SAMPLES)][::-1]), ("stream", [*range(SAMPLES)])],
)
def test_samples_are_those_of_the_loader_in_its_order(data: str, order: list[int]) -> None:
    for most in (SAMPLES + 1, 6):
        calibrated(*task(), f"--model.data={data}", f"--samples={most}")
        assert entries() == largest(sums(Plain(), DATA[order[:most], None], "fisher"), 0.1)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@cases(("fault", "nonfinite"), [("gaps", "propagate"), ("infinite", "raise"), ("infinite", "skip")])
def test_samples_without_a_usable_gradient_count_for_nothing(
    fault: str, nonfinite: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, *task(), f"--model.fault={fault}", f"--model.nonfinite={nonfinite}")
    note = "note: 4 of them count for nothing: a gradient was infinite or undefined"
    assert (note in lines) == (fault == "infinite")
    usable = [index for number, index in enumerate(ORDER) if number % 3 != 2]
    assert entries() == largest(sums(Plain(), DATA[usable, None], "fisher"), 0.1)


# ------------------------------------------------------------ what is refused
@cases(
    ("arguments", "words"),
    [
        (["--samples=0"], "Parameter `samples` should be at least 1. Found `samples = 0`."),
        (
            ["--output=there"],
            "the path of a new file. Found `output = there`, which exists.",
        ),
        (["--output=there/file"], "/there` is no folder."),
        (["--output=new/"], "Found `output = new/`, which is no file."),
        (
            ["--model.data=two"],
            "one `DataLoader` to be read sample by sample. Found a `list`.",
        ),
        (["--model.data=batches"], "Found `batch_size = None`: a `Batches` makes the batches."),
        (["--model.data=none"], "Train data should have a sample to calibrate on. Found none."),
        (["--model.fault=manual"], "automatic optimization, so that a window is one sample. Found `Task`"),
        (["--model.gradient_transform.score=weight"], "one of 'fisher', 'gradient', 'movement'. Found none in `Sp"),
        (
            ["--model.gradient_transform=HeadOnly"],
            "'fisher', 'gradient', 'movement'. Found none in `HeadOnly()`.",
        ),
    ],
    ids=lambda case: " ".join(case[0]),
)
def test_what_cannot_be_calibrated_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there").write_text("precious")
    given = [*task(), *([] if any("output" in each for each in arguments) else [TO_FILE]), *arguments]
    assert words in refused(capsys, *given)
    assert [path.read_text() for path in Path().iterdir()] == ["precious"]


def test_two_masks_or_no_data_or_no_output_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    mask = {"class_path": "SparseMask", "init_args": {"density": 0.1}}
    chain = {"class_path": "Chain", "init_args": {"transforms": [mask, mask]}}
    two = [*TASK, f"--model.gradient_transform={json.dumps(chain)}"]
    assert "Found several in `Chain(SparseMask_0=" in refused(capsys, *two, TO_FILE)
    assert "An argument is missing: `output`." in refused(capsys, *task())
    dataless = [each.replace("tasks.Task", "test_command.Dataless") for each in task()]
    assert "Parameter `data` should be given to calibrate. Found none." in refused(capsys, *dataless, TO_FILE)
    assert "a `SparseGradModule` or a `GradientTransformCallback`" in refused(capsys, PLAIN, *TRAINER, TO_FILE)


class Dataless(Task):
    train_dataloader = LightningModule.train_dataloader


# ------------------------------------------------------------ its end
def test_an_interrupt_ends_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^130$"):
        main(["calibrate", *task(), "--model.fault=interrupted", TO_FILE])
    assert capsys.readouterr().err.splitlines()[-1] == "stopped before `calibrate` was done"
    assert not [*Path().iterdir()]


@pytest.fixture
def full() -> Iterator[None]:
    """Let no file grow beyond 40 KB, as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("full")
def test_a_full_disk_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *task(), "--model.width=20000", "--samples=1", TO_FILE)
    assert line == f"error: [Errno 27] File too large: '{FILE}'"
    assert not [*Path().iterdir()]


# ------------------------------------------------------------ help
def test_help_is_that_of_a_fit_under_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["calibrate", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: sparsegrad calibrate ")
    assert "--samples" in text
    assert "--output" in text
