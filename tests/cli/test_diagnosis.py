"""One mistake, one line: it names the mistake, its place and near matches, and ends with status 2."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser, capture_parser
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.cli import OptimizerCallable

from lightning_sparsegrad import GradientTransform, SparseGradCLI
from lightning_sparsegrad.cli._faults import one_line, reason_in

Error = Callable[..., str]


class Reader(LightningModule):
    def __init__(
        self,
        num_labels: int,
        gradient_transform: GradientTransform,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr: float = 0.1,
    ) -> None:
        super().__init__()


class Shelf(LightningDataModule):
    def __init__(self, size: int = 4) -> None:
        super().__init__()


class Bookmark(Callback):
    def __init__(self, every: int = 1) -> None:
        pass


BASE = f"""\
model:
  class_path: {__name__}.Reader
  init_args:
    num_labels: 2
    gradient_transform:
      class_path: GradDrop
      init_args:
        rate: 0.3
data: {__name__}.Shelf
"""


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    return capture_parser(SparseGradCLI, args=[])


@pytest.fixture
def error_of(
    parser: ArgumentParser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Error:
    """Run `fit` on the base config with a mistake, and return the one line it is answered with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSEGRAD_DEBUG", raising=False)
    Path("base.yaml").write_text(BASE)

    def run(*flags: str, overlay: str = "") -> str:
        if overlay:
            Path("overlay.yaml").write_text(overlay)
            flags = ("--config=overlay.yaml", *flags)
        with pytest.raises(SystemExit) as exit_info:
            parser.parse_args(["fit", "--config", "base.yaml", *flags])
        assert exit_info.value.code == 2
        answer = capsys.readouterr()
        assert answer.out == ""
        (line,) = answer.err.splitlines()
        assert line.startswith("error: ")
        assert line.endswith(" (SPARSEGRAD_DEBUG=1 shows the full text.)")
        return line.removeprefix("error: ").removesuffix(" (SPARSEGRAD_DEBUG=1 shows the full text.)")

    return run


AT = "at `model.gradient_transform`"


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        (
            "--model.gradient_transform.rat=0.4",
            f"`rat` is no argument of `GradDrop` {AT}, in `--model.gradient_transform.rat=0.4`. Near matches: `rate`",
        ),
        (
            "--model.gradient_transform=GradDrp",
            f"`GradDrp` is no file and no class that fits {AT}, in `--model.gradient_transform=GradDrp`. "
            "Near matches: `GradDrop`",
        ),
        (
            "--model.gradient_transform=lightning_sparsegrad.GradDrp",
            "`GradDrp` is no file and no class that fits",
        ),
        (
            "--model.gradient_transform=lightning_sparsgrad.GradDrop",
            "`lightning_sparsgrad.GradDrop` is no file and no class that fits",
        ),
        (
            "--model.gradient_transform=Cosine",  # a schedule is no transform
            f"`Cosine` is no file and no class that fits {AT}",
        ),
        (
            "--model.gradient_transform=GradientTransform",
            f"Expected an instantiatable class, but GradientTransform is abstract {AT}.",
        ),
        (
            "--model.gradient_transform=bse.yaml",
            f"`bse.yaml` is no file and no class that fits {AT}, in `--model.gradient_transform=bse.yaml`. "
            "Near matches: `base.yaml`.",
        ),
        (
            "--model.gradient_transform.rate=abc",
            f"Parameter `rate` should be float or Schedule {AT}, in `--model.gradient_transform.rate=abc`. "
            "Found `rate = abc`.",
        ),
        (
            "--model.gradient_transform.rate=Lnear",
            f"Parameter `rate` should be float or Schedule {AT}, in `--model.gradient_transform.rate=Lnear`. "
            "Found `rate = Lnear`. Near matches: `Linear`",
        ),
        (
            "--model.gradient_transform.resample_every=epok",
            f"Parameter `resample_every` should be int, Literal['epoch'] or None {AT}",
        ),
        ("--model.gradient_transform=LayerGradDrop", f"An argument is missing {AT}: `rate`."),
        ("--model.lrr=3", "`lrr` is no argument of `Reader` at `model`, in `--model.lrr=3`. Near matches: `lr`."),
        ("--model.optimizer.lrr=3", "`lrr` is no argument of `AdamW` at `model.optimizer`"),
        ("--model.optimizer=AdmW", "`AdmW` is no file and no class that fits at `model.optimizer`"),
        (
            "--model=Raeder",
            "Parameter `model` should be LightningModule or None, in `--model=Raeder`. Found `model = Raeder`. "
            "Near matches: `Reader`",
        ),
        ("--data=Shlf", "Found `data = Shlf`. Near matches: `Shelf`"),
        ("--data.size=big", "Parameter `size` should be int at `data`, in `--data.size=big`. Found `size = big`."),
        ("--modle=3", "`modle` is no option, in `--modle=3`. Near matches: `model`."),
        ("--modle.lr=3", "`modle` is no option, in `--modle.lr=3`. Near matches: `model`."),
        (
            "--trainer.max_epoch=3",
            "`max_epoch` is no option at `trainer`, in `--trainer.max_epoch=3`. Near matches: `max_epochs`",
        ),
        (
            "--trainer.max_epochs=three",
            "Parameter `max_epochs` should be int or None at `trainer`, in `--trainer.max_epochs=three`. "
            "Found `max_epochs = three`.",
        ),
        ("--trainer.callbacks+=Bokmark", "Found `callbacks = Bokmark`. Near matches: `Bookmark`"),
        ("--trainer.callbacks=Bookmark,--trainer.callbacks.evry=2", "`evry` is no"),
        ("--trainer.logger=", "Found `logger = ''`."),
        ("--seed_everything=abc", "Parameter `seed_everything` should be bool or int"),
        ("--config=bsae.yaml", "bsae.yaml`. Near matches: `base.yaml`."),
        ("--data", "argument --data: expected one argument."),
    ],
)
def test_mistake_in_a_flag(flag: str, answer: str, error_of: Error) -> None:
    assert answer in error_of(*flag.split(","))


@pytest.mark.parametrize(
    ("overlay", "answer"),
    [
        (
            "model:\n  init_args:\n    gradient_transform:\n      class_path: GradDrp",
            f"`GradDrp` is no file and no class that fits {AT}, in overlay.yaml line 4. Near matches: `GradDrop`",
        ),
        (
            "model:\n  init_args:\n    gradient_transform:\n      init_args:\n        rat: 0.4",
            f"`rat` is no argument of `GradDrop` {AT}, in overlay.yaml line 5. Near matches: `rate`",
        ),
        (
            "model:\n  init_args:\n    gradient_transfom: GradDrop",
            "`gradient_transfom` is no argument of `Reader` at `model`, in overlay.yaml line 3. "
            "Near matches: `gradient_transform`.",
        ),
        (
            "model:\n  init_arg:\n    lr: 1",
            "`init_arg` is no argument of `Reader` at `model`, in overlay.yaml line 2. Near matches: `init_args`.",
        ),
        (
            "model:\n  init_args:\n    gradient_transform:\n      class_path: Chain\n      init_args:\n"
            "        transforms:\n        - {class_path: GradDrop, init_args: {rate: 0.1}}\n"
            "        - {class_path: ComponentNormClip, init_args: {max_nrm: 1.0}}",
            "`max_nrm` is no argument of `ComponentNormClip` at `model.gradient_transform.transforms`, "
            "in overlay.yaml line 8. Near matches: `max_norm`.",
        ),
        (
            "model:\n  init_args:\n    gradient_transform:\n      class_path: Chain\n      init_args:\n"
            "        transforms:\n          mask:\n            class_path: GradDrop\n            init_args:\n"
            "              rate: {class_path: Linear, init_args: {strt: 1.0}}",
            "`strt` is no argument of `Linear` at `model.gradient_transform.transforms.rate`, in overlay.yaml line 10. "
            "Near matches: `start`.",
        ),
        ("trianer:\n  max_epochs: 3", "`trianer` is no option, in overlay.yaml line 1. Near matches: `trainer`."),
        (
            "trainer:\n  max_epoch: 3",
            "`max_epoch` is no option at `trainer`, in overlay.yaml line 2. Near matches: `max_epochs`",
        ),
        (
            "trainer:\n  callbacks:\n  - class_path: GradientTransformCallback\n    init_args:\n"
            "      gradient_transform: GradDrp",
            "`GradDrp` is no file and no class that fits at `trainer.callbacks.gradient_transform`, "
            "in overlay.yaml line 5.",
        ),
        (
            "data:\n  init_args:\n    size: big",
            "Parameter `size` should be int at `data`, in overlay.yaml line 3. Found `size = big`.",
        ),
        ("model: {class_path: Reader", "overlay.yaml is no YAML: "),
        ("only text", "Unexpected config: only text."),
    ],
)
def test_mistake_in_a_file(overlay: str, answer: str, error_of: Error) -> None:
    assert answer in error_of(overlay=overlay)


def test_unknown_subcommand(parser: ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parser.parse_args(["fti"])
    assert exit_info.value.code == 2
    assert "Near matches: `fit`" in capsys.readouterr().err


def test_full_text_on_request(
    error_of: Error, parser: ArgumentParser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARSEGRAD_DEBUG", "1")
    with pytest.raises(SystemExit) as exit_info:
        parser.parse_args(["fit", "--config", "base.yaml", "--model.gradient_transform.rat=0.4"])
    assert exit_info.value.code == 2
    text = capsys.readouterr().err
    assert "Does not validate against any of the Union subtypes" in text
    assert "usage:" in text


def test_plain_error_in_one_line() -> None:
    line = one_line(reason_in(ValueError("Parameter `rate` should be\n  in [0, 1].")))
    assert line == "Parameter `rate` should be in [0, 1]. (SPARSEGRAD_DEBUG=1 shows the full text.)"


@pytest.mark.parametrize(
    ("flag", "place"),
    [
        ("--optimizer=SGD", "model.optimizer"),
        ("--lr_scheduler=StepLR", "model.lr_scheduler"),
        ("--max_epochs=3", "trainer.max_epochs"),
    ],
)
def test_option_of_the_model_or_the_trainer_is_found(flag: str, place: str, error_of: Error) -> None:
    name = place.rpartition(".")[2]
    assert error_of(flag) == f"`{name}` is no option, in `{flag}`. It is `--{place}`."


def test_groups_of_lightning_in_a_file_are_the_models(error_of: Error) -> None:
    answer = error_of(overlay="optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}\n")
    assert answer == "`optimizer` is no option, in overlay.yaml line 1. It is `--model.optimizer`."


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("os.system", "`os.system` may not be named in a config at `model.optimizer`, in"),
        ("torch.load", "Expected 'torch.load' to be a function that returns Optimizer at `model.optimizer`."),
        ("torch.nn.Linear", "Expected 'torch.nn.Linear' to be a subclass of Optimizer at `model.optimizer`."),
    ],
)
def test_what_makes_no_optimizer_is_named(name: str, answer: str, error_of: Error) -> None:
    assert error_of(f"--model.optimizer={name}").startswith(answer)


@pytest.mark.parametrize("lost", ["Subtypes: ", "Given value"])
def test_a_text_that_is_worded_otherwise_is_shown_as_it_is(lost: str) -> None:
    text = """Parser key "rate":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'float'>, <class 'int'>]
  Errors:
    - Expected a <class 'float'>
    - Expected a <class 'int'>
  Given value: half"""
    assert reason_in(ValueError(text)) == "Expected a <class 'float'>, <class 'int'>. Got value: half"
    reworded = reason_in(ValueError(text.replace(lost, "Otherwise: ")))
    assert reworded == "Expected a <class 'float'>"
