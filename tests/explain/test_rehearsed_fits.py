"""`sparsegrad explain` of a plain module: what its optimizers hold, its callbacks, its devices and its epochs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BaseFinetuning
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader
from transformers import LlamaConfig

from lightning_sparsegrad import GradientEngine, SparseGradCLI
from lightning_sparsegrad.explain._rehearsal import Rehearsal
from lightning_sparsegrad.main import main
from tests.explain.test_arguments import printed, refused


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Plain(LightningModule):
    """A body of 72 parameters and a head of 18, with 16 batches."""

    def __init__(self, held: str = "all", gaps: int = 0) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self._held, self._gaps = held, gaps

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        loss = self.head(self.body(batch)).square().mean()
        return None if self._gaps and batch_idx % self._gaps == self._gaps - 1 else loss

    def configure_optimizers(self) -> Optimizer:
        if self._held == "freezes":
            self.body.requires_grad_(False)
        return AdamW(self.parameters() if self._held == "all" else self.head.parameters(), lr=0.01)

    def train_dataloader(self) -> DataLoader[Any]:
        torch.manual_seed(0)
        return DataLoader(torch.randn(64, 8), batch_size=4)  # type: ignore[arg-type]


class Two(Plain):
    """Two optimizers under manual optimization, which a hook unpacks."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> list[Optimizer]:  # type: ignore[override]
        return [SGD(self.body.parameters(), lr=0.1), AdamW(self.head.parameters())]

    def on_fit_start(self) -> None:
        one, two = self.optimizers()  # type: ignore[attr-defined]
        assert [type(each.optimizer) for each in (one, two)] == [SGD, AdamW]


class Frozen(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class Logging(Plain):
    def on_fit_start(self) -> None:
        self.logger.log_hyperparams({"a": 1})  # type: ignore[union-attr]


class Dataless(Plain):
    train_dataloader = LightningModule.train_dataloader


class Freeze(BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.body)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        pass


CLIP = {"class_path": "GlobalNormClip", "init_args": {"max_norm": 1.0}}
EPOCHS = {"class_path": "GradDrop", "init_args": {"rate": 0.5, "resample_every": "epoch"}}


def plain(*others: Any, model: str = "Plain", transform: Any = CLIP) -> list[str]:
    callbacks = [{"class_path": "GradientTransformCallback", "init_args": {"gradient_transform": transform}}, *others]
    specs = f"--trainer.callbacks={json.dumps(callbacks)}"
    quiet = ["--trainer.max_epochs=3", "--trainer.accelerator=cpu", "--seed_everything=0"]
    return [f"--model={__name__}.{model}", specs, *quiet]


def accumulating(scheduling: dict[int, int]) -> dict[str, Any]:
    return {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": scheduling}}


def read(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    text: dict[str, Any] = json.loads(printed(capsys, *arguments, "--json"))
    return text


# ------------------------------------------------------------ optimizers
@pytest.mark.parametrize("held", ["head", "freezes"])
def test_tensors_that_no_optimizer_holds_do_not_train(held: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *plain(), f"--model.held={held}").splitlines()
    assert lines[1] == "48 steps; 90 parameters in 4 tensors, 18 train (20.0%)"
    (body,) = [line for line in lines if line.startswith("body ")]
    assert ("never: requires_grad=False" in body) == (held == "freezes")
    assert "never" in body
    assert "optimizer  144 B in two moments, as Adam keeps, of 720 B if all trained" in lines
    note = "note: no optimizer holds 72 parameters in 2 tensors, which never train: body"
    assert (note in lines) == (held == "head")
    assert ("gradients  360 B" in lines) == (held == "head"), "they are computed all the same"


@pytest.mark.filterwarnings("ignore:0 of 90 parameters train")
def test_optimizers_of_a_module_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert "90 parameters in 4 tensors, all train" in printed(capsys, *plain(model="Two"))
    assert "0 train" in printed(capsys, *plain(model="Frozen"))


def test_optimizers_that_need_weights_are_noted() -> None:
    rehearsal, module = Rehearsal(windows=0, why_whole=None), Plain().to("meta")

    def configure() -> Optimizer:
        raise NotImplementedError("no kernel for meta")

    assert rehearsal._configure(module, configure).param_groups[0]["params"] == [*module.parameters()]
    assert rehearsal._notes == [
        "optimizers cannot be made without weights, and are taken to hold all: no kernel for meta"
    ]
    with pytest.raises(NotImplementedError):
        rehearsal._configure(Plain(), configure)


@pytest.mark.parametrize(
    ("others", "held"),
    [((), "all"), ((), "head"), ((), "freezes"), (("Freeze",), "all"), ((4,), "all"), ((4, "Freeze"), "head")],
)
def test_a_fit_moves_what_was_explained(others: tuple[Any, ...], held: str, capsys: pytest.CaptureFixture[str]) -> None:
    specs = [{"class_path": f"{__name__}.Freeze"} if each == "Freeze" else accumulating({0: each}) for each in others]
    arguments = [*plain(*specs), f"--model.held={held}"]
    described = read(capsys, *arguments)
    quiet = ["logger=false", "enable_checkpointing=false", "enable_progress_bar=false", "enable_model_summary=false"]
    cli = SparseGradCLI(args=["fit", *arguments, *(f"--trainer.{each}" for each in quiet)])
    torch.manual_seed(0)
    start = Plain().state_dict()
    moved = {name for name, tensor in cli.model.state_dict().items() if not tensor.equal(start[name])}
    assert {row["name"] for row in described["tensors"] if row["trained"]} == moved
    assert described["steps"] == cli.trainer.global_step


# ------------------------------------------------------------ callbacks
def test_callbacks_that_freeze_are_kept_and_others_named(capsys: pytest.CaptureFixture[str]) -> None:
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "a"}}
    averaging = {"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": 0.1}}
    others = [{"class_path": f"{__name__}.Freeze"}, stopping, averaging, {"class_path": "ModelCheckpoint"}]
    lines = printed(capsys, *plain(*others), "--trainer.max_time=00:01:00:00").splitlines()
    assert "18 train (20.0%)" in lines[1]
    assert [line for line in lines if line.startswith("note: ")] == [
        "note: these are the most steps: `EarlyStopping` and `max_time` may end the training before",
        "note: left out, whatever it would change: `StochasticWeightAveraging`",
        "note: what `Freeze` freezes at the start counts; what it unfreezes later is not followed",
    ]
    assert "note: " not in printed(capsys, *plain({"class_path": "ModelCheckpoint"}))


def test_a_logger_may_be_called_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "48 steps" in printed(capsys, *plain(model="Logging"))
    assert "norms of 1 window " in printed(capsys, *plain(model="Logging"), "--windows=1")
    assert not [*tmp_path.iterdir()]


# ------------------------------------------------------------ steps and epochs
def test_steps_of_an_epoch_are_those_of_the_accumulation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, Any]] = []
    describe = GradientEngine.describe

    def recorded(self: GradientEngine, steps: Any, *, steps_per_epoch: Any) -> Any:
        asked.append((steps, steps_per_epoch))
        return describe(self, steps, steps_per_epoch=steps_per_epoch)

    monkeypatch.setattr(GradientEngine, "describe", recorded)
    printed(capsys, *plain(accumulating({0: 4}), transform=EPOCHS))
    printed(capsys, *plain(accumulating({0: 4, 9: 8}), transform=EPOCHS))
    printed(capsys, *plain(accumulating({0: 4}), transform=EPOCHS), "--total_steps=100")
    printed(capsys, *plain(accumulating({0: 1, 1: 4})), "--total_steps=100")
    assert asked == [(12, 4), (12, 4), (100, 34), (100, 34)]


def test_epochs_of_different_length_are_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *plain(accumulating({0: 1, 2: 4}), transform=EPOCHS))
    assert "Found `GradientAccumulationScheduler`, with which epochs differ." in line
    assert "`--total_steps=1000`" in line


@pytest.mark.parametrize(
    ("limit", "steps"),
    [
        ("limit_train_batches=3", 9),
        ("limit_train_batches=10", 24),
        ("limit_train_batches=3.0", 9),
        ("limit_train_batches=0.5", 12),
        ("overfit_batches=3", 9),
        ("fast_dev_run=3", 3),
        ("fast_dev_run=true", 1),
    ],
)
def test_limits_are_those_of_each_process(limit: str, steps: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(capsys, *plain(), "--trainer.devices=2", f"--trainer.{limit}")["steps"] == steps


def test_one_step_is_no_plural(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, *plain(), "--total_steps=1").splitlines()[1].startswith("1 step; ")


# ------------------------------------------------------------ norms
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_windows_whose_last_batch_has_no_loss_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    halves = ["--trainer.accumulate_grad_batches=2", "--trainer.limit_train_batches=8"]
    first = read(capsys, *plain(), *halves, "--model.gaps=2", "--windows=3")["norms"]
    assert (first["windows"], first["components"][0]["norms"]) == (3, 3)
    assert first["components"][0]["quantiles"]["5%"] < first["components"][0]["quantiles"]["max"], (
        "none is counted twice"
    )
    some = read(
        capsys, *plain(), "--trainer.limit_train_batches=8", "--trainer.max_epochs=1", "--model.gaps=2", "--windows=9"
    )
    assert some["norms"]["windows"] == some["norms"]["components"][0]["norms"] == 4, (
        "those without a gradient do not count"
    )


def test_weights_of_a_checkpoint_are_those_of_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Plain().state_dict(), "global_step": 32, "pytorch-lightning_version": "2.6.0"}, "a.ckpt")
    text = printed(capsys, *plain(), "--windows=1", "--ckpt_path=a.ckpt")
    assert "note: weights of step 32; masks, rates and thresholds of step 0 on" in text
    assert "note: `ckpt_path` is read with `windows` only" in printed(capsys, *plain(), "--ckpt_path=a.ckpt")


# ------------------------------------------------------------ what a fit refuses
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("strategy=nonsense", "Found `strategy = nonsense`"),
        ("strategy=fsdp", "Found `FSDPStrategy`"),
        ("strategy=deepspeed_stage_2", "Found `DeepSpeedStrategy`"),
        ("strategy={class_path: FSDPStrategy}", "Found `FSDPStrategy`"),
        ("devices=0", "Found `devices = 0`"),
        ("devices=abc", "Found `devices = abc`"),
        ("devices=[]", "Found `devices = []`"),
        ("num_nodes=0", "Found `num_nodes = 0`"),
        ("accelerator=nonsense", "Found `accelerator = nonsense`"),
    ],
)
def test_what_a_fit_refuses_is_refused(argument: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(capsys, *plain(), f"--trainer.{argument}")


def test_a_fit_without_data_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "note: no data are given, which `fit` needs" in printed(capsys, *plain(model="Dataless"))
    assert "note: " not in printed(capsys, *plain(model="Dataless"), "--total_steps=7")
    assert "Parameter `data` should be given" in refused(capsys, *plain(model="Dataless"), "--windows=1")


def test_what_is_missing_is_named_as_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys).startswith("error: An argument is missing: `model`.")
    LlamaConfig(architectures=["LlamaForCausalLM"], pad_token_id=0, num_hidden_layers=1).save_pretrained("llama")
    task = ["--model=SequenceClassification", "--model.model_name_or_path=llama", "--seed_everything=0"]
    line = refused(capsys, *task, "--model.gradient_transform=HeadOnly", "--total_steps=20")
    assert "Parameter `num_labels` of the model should be given without data. Found none." in line


def test_warnings_are_about_what_was_given(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    arguments = [argument for argument in plain() if "accelerator" not in argument]
    capsys.readouterr()
    main(["explain", *arguments, "--trainer.precision=16-mixed", "--trainer.accelerator=gpu"])
    assert "accelerator='cpu'" not in capsys.readouterr().err
    assert not [each for each in recwarn if "accelerator='cpu'" in str(each.message)]
