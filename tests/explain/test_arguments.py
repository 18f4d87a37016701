"""`sparsegrad explain` with and without data, weights and devices; what it prints, and what it refuses."""

import json
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import LlamaConfig

from lightning_sparsegrad import (
    AdaptiveGradientClip,
    Chain,
    ComponentNormClip,
    GradDrop,
    GradientEngine,
    GradientTransform,
    SparseGradArgumentParser,
    SparseGradModule,
    ValueClip,
)
from lightning_sparsegrad.explain._norms import THRESHOLDS, Norms
from lightning_sparsegrad.explain._rehearsal import Rehearsal
from lightning_sparsegrad.explain._trainer import settle_trainer
from lightning_sparsegrad.main import main
from tests.explain.test_command import MODEL, QUICKSTART, TASK, explained, overlay
from tests.tiny import tiny_bert


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main(["explain", *arguments])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["explain", *arguments])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


# ------------------------------------------------------------ a task of this library
def test_without_data_a_task_is_described_by_its_number_of_steps(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TASK, *overlay("gradual_unfreezing"), "--total_steps=80"]
    lines = printed(capsys, *arguments).splitlines()
    assert lines[1] == "80 steps; 22,714,371 parameters in 105 tensors, all train"
    assert "block 5      1,774,464  from step 10" in lines
    by_epoch = "--model.gradient_transform.init_args.unfreeze_every=epoch"
    lines = printed(capsys, *arguments, by_epoch, "--trainer.max_epochs=4").splitlines()
    assert "block 5              1,774,464  from step 20" in lines
    assert "block 0 to 2, each   1,774,464  never" in lines


@pytest.mark.long
def test_seven_billion_parameters_take_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    LlamaConfig(architectures=["LlamaForCausalLM"], pad_token_id=0).save_pretrained("llama")
    arguments = ["--model=SequenceClassification", "--model.num_labels=2", "--seed_everything=0", "--total_steps=5000"]
    before = getrusage(RUSAGE_SELF).ru_maxrss
    read = explained(capsys, *arguments, "--model.model_name_or_path=llama", *overlay("sparse_unfreezing"))
    grown = getrusage(RUSAGE_SELF).ru_maxrss - before  # in KB
    assert sum(row["entries"] for row in read["tensors"]) == 6_607_351_808
    assert read["memory"]["moments_of_all"] == 8 * 6_607_351_808
    first = {row["layer"]: row["first_step"] for row in read["tensors"]}
    assert first["head"] == 0
    assert first["embeddings"] == max(first.values()) > 2400
    assert grown < 500_000


def test_data_that_are_not_there_are_not_asked_where_numbers_stand_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    Path("task.yaml").write_text(
        "model: SequenceClassification\ndata:\n  class_path: TextDataModule\n"
        "  init_args: {data_files: {train: nothing.tsv}}\n"
    )
    arguments = ["--config", "task.yaml", "--seed_everything=0", MODEL, *overlay("cgnc")]
    assert "`data_files.train = 'nothing.tsv'`. Without the data: `--total_steps=1000`" in refused(capsys, *arguments)
    assert "Without the data: `--total_steps=1000`" in refused(capsys, *arguments, "--model.num_labels=3")
    assert "7 steps; " in printed(capsys, *arguments, "--model.num_labels=3", "--total_steps=7")


def test_what_is_not_known_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    missing = refused(capsys, *TASK, *overlay("gradual_unfreezing"))
    assert "Parameter `total_steps` should be given for `GradualUnfreezing`" in missing
    assert "the first 1,000 steps of a training of unknown length; " in printed(capsys, *TASK, *overlay("head_only"))
    both = refused(capsys, *QUICKSTART, "--windows=2", "--total_steps=4")
    assert "Parameter `total_steps` should be left out with `windows`" in both
    assert "Near matches: `GradDrop`" in refused(capsys, *QUICKSTART, "--model.gradient_transform=GradDorp")
    assert "Parameter `windows` should be at least 1. Found `windows = 0`." in refused(
        capsys, *QUICKSTART, "--windows=0"
    )


def test_help_is_that_of_a_fit_under_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["explain", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: sparsegrad explain ")
    assert "--windows" in text
    assert "--model.gradient_transform" in text or "--model CONFIG" in text


def test_dtypes_of_weights_are_those_of_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TASK, *overlay("identity"), "--total_steps=2"]
    whole = explained(capsys, *arguments)["memory"]["gradients_first"]
    assert explained(capsys, *arguments, "--model.dtype=bfloat16")["memory"]["gradients_first"] * 2 == whole
    assert explained(capsys, *arguments, "--trainer.precision=bf16-true")["memory"]["gradients_first"] * 2 == whole


# ------------------------------------------------------------ devices and strategies
def trainer(**changes: Any) -> Any:
    parser = SparseGradArgumentParser()
    parser.add_lightning_class_args(Trainer, "trainer")
    return parser.parse_object({"trainer": changes}).trainer


FINDING = {"class_path": "DDPStrategy", "dict_kwargs": {"find_unused_parameters": True}}
STOPPING = {"class_path": "EarlyStopping", "init_args": {"monitor": "a"}}


@pytest.mark.parametrize(
    ("changes", "count", "skips"),
    [
        ({}, 1, True),
        ({"devices": 1, "strategy": "ddp"}, 1, False),
        ({"devices": 2}, 2, False),
        ({"devices": "2", "num_nodes": 3}, 6, False),
        ({"devices": "0,1,"}, 2, False),
        ({"devices": [0, 3, 4], "strategy": "ddp_find_unused_parameters_true"}, 3, True),
        (
            {"devices": 2, "strategy": {"class_path": "DDPStrategy", "dict_kwargs": {"find_unused_parameters": True}}},
            2,
            True,
        ),
        ({"devices": 2, "strategy": {"class_path": "ModelParallelStrategy"}}, 2, False),
    ],
    ids=str,
)
def test_devices_become_an_accumulation(changes: dict[str, Any], count: int, skips: bool) -> None:
    schedule = {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": {0: 2, 3: 4}}}
    callbacks = [schedule, {"class_path": "ModelCheckpoint"}, STOPPING]
    arguments = trainer(accumulate_grad_batches=3, callbacks=callbacks, **changes)
    devices = settle_trainer(arguments, total_steps=None, on_meta=True)
    assert (devices.count, devices.why_whole is None) == (count, skips)
    assert (arguments.devices, arguments.num_nodes, arguments.strategy) == (1, 1, "auto")
    assert arguments.accumulate_grad_batches == 3 * count
    (kept,) = arguments.callbacks
    assert kept.init_args.scheduling == {0: 2 * count, 3: 4 * count}


@pytest.mark.long
def test_several_devices_take_fewer_steps_and_skip_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--data.max_samples=50", "--data.batch_size=8"]
    one = explained(capsys, *QUICKSTART, *overlay("head_only"), *few)
    three = explained(capsys, *QUICKSTART, *overlay("head_only"), *few, "--trainer.devices=3")
    assert (one["steps"], three["steps"]) == (7, 3)
    assert one["obstacle"] is None
    assert three["obstacle"] == "DDP skips with `find_unused_parameters=True` only"
    assert {row["computed"] for row in three["tensors"]} == {1.0}


# ------------------------------------------------------------ models of others
class Other(LightningModule):
    """A module with data of its own, whose strategy is a callback's."""

    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        self.layer, self.automatic_optimization = torch.nn.Linear(2, 2), not manual

    def training_step(self, batch: Tensor) -> Tensor:
        return self.layer(batch).square().sum()  # type: ignore[no-any-return]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.arange(10.0).reshape(5, 2))  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=100.0)


def callback(**transform: Any) -> list[str]:
    spec = {"class_path": "GradientTransformCallback", "init_args": {"gradient_transform": transform}}
    return [f"--trainer.callbacks={json.dumps([spec])}", "--trainer.max_epochs=1", "--seed_everything=0"]


def test_a_strategy_of_a_callback_is_described_and_measured_on_any_module(capsys: pytest.CaptureFixture[str]) -> None:
    clip = callback(class_path="GlobalNormClip", init_args={"max_norm": 0.5})
    read = explained(capsys, f"--model={__name__}.Other", *clip, "--windows=9", "--trainer.accelerator=cpu")
    assert read["steps"] == 5
    (row,) = read["norms"]["components"]
    assert (row["name"], row["norms"], read["norms"]["windows"]) == ("all", 5, 5)  # there are no more
    seed_everything(0, verbose=False)
    layer, norms = Other().layer, []
    for batch in torch.arange(10.0).reshape(5, 2):
        layer.zero_grad()
        layer(batch).square().sum().backward()
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in layer.parameters() if p.grad is not None])))
    assert row["quantiles"]["max"] == pytest.approx(max(norms))
    assert row["quantiles"]["50%"] == pytest.approx(sorted(norms)[2])


def test_what_cannot_be_explained_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Found neither with `Other`" in refused(capsys, f"--model={__name__}.Other", "--trainer.max_epochs=1")
    clip = callback(class_path="GlobalNormClip", init_args={"max_norm": 0.5})
    manual = [f"--model={__name__}.Other", "--model.manual=true", *clip, "--windows=1", "--trainer.accelerator=cpu"]
    assert "Parameter `windows` should be left out under manual optimization" in refused(capsys, *manual)


# ------------------------------------------------------------ which clip measures
MEASURED: list[tuple[GradientTransform, str]] = [
    (GradDrop(0.5), "Chain(GradDrop=GradDrop(rate=0.5), ComponentNormClip"),
    (AdaptiveGradientClip(0.01, exclude_head=False), "ComponentNormClip"),
    (Chain({"a": AdaptiveGradientClip(0.01, exclude_head=False), "b": ValueClip(0.5)}), "Chain(a=ComponentNormClip"),
    (Chain({"a": Chain({"b": AdaptiveGradientClip(0.01)}), "c": GradDrop(0.1)}), "Chain(a=Chain(b=ComponentNormClip"),
]


@pytest.mark.parametrize(("transform", "text"), MEASURED, ids=[repr(transform) for transform, _ in MEASURED])
def test_a_clip_stands_where_a_clip_of_norms_would(transform: GradientTransform, text: str) -> None:
    model = tiny_bert(num_labels=2)
    engine = GradientEngine(model, transform, total_steps=2)
    norms = Norms(engine)
    assert repr(engine.transform).startswith(text)
    with engine.window(0):
        model(input_ids=torch.randint(5, 50, (2, 6)), labels=torch.tensor([0, 1])).loss.backward()
        before = {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None}
        engine.apply_()
    norms.add()
    table = norms.table()
    assert {row.name for row in table.components} == before.keys()
    for row in table.components if "GradDrop" not in repr(transform).partition(",")[0] else ():
        assert row.quantiles["50%"] == pytest.approx(float(before[row.name].norm()), rel=1e-5)
    for row in table.layers:
        assert list(row.clipped) == [f"{bound:g}" for bound in THRESHOLDS]


def test_components_with_an_infinite_threshold_are_measured_too() -> None:
    model = tiny_bert(num_labels=2)
    clip = ComponentNormClip(0.5, components="block", overrides={"head": float("inf")})
    engine = GradientEngine(model, clip)
    norms = Norms(engine)
    with engine.window(0):
        model(input_ids=torch.randint(5, 50, (2, 6)), labels=torch.tensor([0, 1])).loss.backward()
        engine.apply_()
    norms.add()
    counts = dict.fromkeys(["embeddings", "block 0", "block 1", "block 2", "head"], 1)
    assert {row.name: row.norms for row in norms.table().layers} == {**counts, "all": 5}


def test_weights_of_a_checkpoint_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = callback(class_path="GlobalNormClip", init_args={"max_norm": 0.5})
    weights = {"layer.weight": torch.zeros(2, 2), "layer.bias": torch.tensor([3.0, 4.0])}
    torch.save({"state_dict": weights, "pytorch-lightning_version": "2.6.0"}, tmp_path / "given.ckpt")
    arguments = [f"--model={__name__}.Other", *clip, "--windows=1", "--trainer.accelerator=cpu"]
    read = explained(capsys, *arguments, "--ckpt_path=given.ckpt")
    (first,) = [row["quantiles"]["max"] for row in read["norms"]["components"]]
    gradient = 2 * torch.tensor([3.0, 4.0])
    rows = [torch.outer(gradient, row) for row in torch.arange(10.0).reshape(5, 2)]
    assert any(first == pytest.approx(float(torch.cat([row.flatten(), gradient]).norm())) for row in rows)
    torch.save({"state_dict": {"other": torch.zeros(1)}, "pytorch-lightning_version": "2.6.0"}, "given.ckpt")
    assert "given.ckpt" in refused(capsys, *arguments, "--ckpt_path=given.ckpt")


# ------------------------------------------------------------ loss scaling
class Unsteady(SparseGradModule):
    """A loss whose gradients overflow in float16 at the first scale, and not at the next."""

    def __init__(self) -> None:
        super().__init__(gradient_transform=ComponentNormClip(0.5))
        self.layer = torch.nn.Linear(4, 2)

    def training_step(self, batch: Tensor) -> Tensor:
        return self.layer(batch).square().mean()  # type: ignore[no-any-return]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.arange(24.0).reshape(6, 4) / 8)  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def rehearsed(**settings: Any) -> Tensor:
    """Return the norms of the weight, window by window."""
    seed_everything(0, verbose=False)
    rehearsal, module = Rehearsal(windows=6, why_whole=None), Unsteady()
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    fit = Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet, **settings)
    rehearsal.join(fit, module)
    weights = [tensor.detach().clone() for tensor in module.parameters()]
    fit.fit(module)
    assert all(torch.equal(one, two) for one, two in zip(weights, module.parameters(), strict=True)), "nothing steps"
    assert rehearsal._norms is not None
    return torch.stack(rehearsal._norms._norms["layer.weight"])


def test_norms_are_in_true_units_under_loss_scaling() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15, growth_interval=100)
    whole, half = rehearsed(), rehearsed(plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    finite = half.isfinite()
    assert 2 <= int(finite.sum()) < 6, "there are overflows"
    assert scaler.get_scale() == 2.0 ** (15 - int((~finite).sum())), "of each of which the scaler hears"
    torch.testing.assert_close(half[finite], whole[finite], rtol=1e-2, atol=0)


def test_an_accumulation_is_measured_as_a_whole() -> None:
    measured = rehearsed(accumulate_grad_batches=2)
    seed_everything(0, verbose=False)
    module, norms = Unsteady(), []
    for pair in (torch.arange(24.0).reshape(3, 2, 4) / 8).unbind():
        module.zero_grad()
        for batch in pair:
            torch.autograd.backward(module.training_step(batch[None]) / 2)
        norms.append(float(module.layer.weight.grad.norm()))  # type: ignore[union-attr]
    assert measured.tolist() == pytest.approx(norms)
