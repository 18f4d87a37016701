"""One line per mistake, with its position and near matches, and status 2."""

import io
import random
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from jsonargparse import ArgumentParser, capture_parser
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.cli import OptimizerCallable

from lightning_sparsegrad import GradientTransform, SparseGradCLI
from lightning_sparsegrad.cli import _diagnosis
from lightning_sparsegrad.cli import parser as parser_module
from lightning_sparsegrad.cli._faults import HINT, one_line, reason_in
from lightning_sparsegrad.main import main


class Reader(LightningModule):
    def __init__(
        self,
        num_labels: int,
        gradient_transform: GradientTransform,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr: float = 0.1,
    ) -> None:
        super().__init__()


class Careful(LightningModule):
    pass


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


AT = "at `model.gradient_transform`"

# flags, separated by spaces, and a piece of the expected line
IN_FLAGS: list[tuple[str, str]] = [
    (
        "--model.gradient_transform.rat=0.4",
        f"`rat` is not an argument of `GradDrop` {AT}, in `--model.gradient_transform.rat=0.4`. Near matches: `rate`",
    ),
    (
        "--model.gradient_transform=GradDrp",
        f"`GradDrp` is neither a file nor a class that fits {AT}, in `--model.gradient_transform=GradDrp`. "
        "Near matches: `GradDrop`",
    ),
    (
        "--model.gradient_transform=lightning_sparsegrad.GradDrp",
        "`GradDrp` is neither a file nor a class that fits",
    ),
    (
        "--model.gradient_transform=lightning_sparsgrad.GradDrop",
        "`lightning_sparsgrad.GradDrop` is neither a file nor a class that fits",
    ),
    (
        "--model.gradient_transform=Cosine",  # a schedule, not a transform
        f"`Cosine` is neither a file nor a class that fits {AT}",
    ),
    (
        "--model.gradient_transform=GradientTransform",
        f"Expected an instantiatable class, but GradientTransform is abstract {AT}.",
    ),
    (
        "--model.gradient_transform=bse.yaml",
        f"`bse.yaml` is neither a file nor a class that fits {AT}, in `--model.gradient_transform=bse.yaml`. "
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
    ("--model.lrr=3", "`lrr` is not an argument of `Reader` at `model`, in `--model.lrr=3`. Near matches: `lr`."),
    ("--model.optimizer.lrr=3", "`lrr` is not an argument of `AdamW` at `model.optimizer`"),
    ("--model.optimizer=AdmW", "`AdmW` is neither a file nor a class that fits at `model.optimizer`"),
    (
        "--model=Raeder",
        "Parameter `model` should be LightningModule or None, in `--model=Raeder`. Found `model = Raeder`. "
        "Near matches: `Reader`",
    ),
    ("--data=Shlf", "Found `data = Shlf`. Near matches: `Shelf`"),
    ("--data.size=big", "Parameter `size` should be int at `data`, in `--data.size=big`. Found `size = big`."),
    ("--modle=3", "`modle` is not an option, in `--modle=3`. Near matches: `model`."),
    ("--modle.lr=3", "`modle` is not an option, in `--modle.lr=3`. Near matches: `model`."),
    (
        "--trainer.max_epoch=3",
        "`max_epoch` is not an option at `trainer`, in `--trainer.max_epoch=3`. Near matches: `max_epochs`",
    ),
    (
        "--trainer.max_epochs=three",
        "Parameter `max_epochs` should be int or None at `trainer`, in `--trainer.max_epochs=three`. "
        "Found `max_epochs = three`.",
    ),
    ("--trainer.callbacks+=Bokmark", "Found `callbacks = Bokmark`. Near matches: `Bookmark`"),
    ("--trainer.callbacks=Bookmark --trainer.callbacks.evry=2", "`evry` is not an"),
    ("--trainer.logger=", "Found `logger = ''`."),
    ("--seed_everything=abc", "Parameter `seed_everything` should be bool or int"),
    ("--config=bsae.yaml", "no config `bsae.yaml`, neither a file nor one of the package. Near matches: `base.yaml`."),
    ("--config=folder", "There is no config `folder`, neither a file nor one of the package. ("),
    ("--trainer=bsae.yaml", "There is no file `bsae.yaml`. Near matches: `base.yaml`."),
    ("--trainer=folder", "There is no file `folder`."),
    ("--trainer=items", "Found none in `items`."),
    ("--trainer=torn", "torn is not valid YAML: did not find expected node content, line 1."),
    ("--data", "argument --data: expected one argument."),
    ("fti", "`fti` is none of fit, validate, test, predict. Near matches: `fit`."),
    ("--optimizer=SGD", "`optimizer` is not an option, in `--optimizer=SGD`. It is `--model.optimizer`."),
    (
        "--lr_scheduler=StepLR",
        "`lr_scheduler` is not an option, in `--lr_scheduler=StepLR`. It is `--model.lr_scheduler`.",
    ),
    ("--max_epochs=3", "`max_epochs` is not an option, in `--max_epochs=3`. It is `--trainer.max_epochs`."),
    ("--model.optimizer=os.system", "`os.system` may not be named in a config at `model.optimizer`, in"),
    (
        "--model.optimizer=torch.load",
        "Expected 'torch.load' to be a function that returns Optimizer at `model.optimizer`.",
    ),
    (
        "--model.optimizer=torch.nn.Linear",
        "Expected 'torch.nn.Linear' to be a subclass of Optimizer at `model.optimizer`.",
    ),
    (
        "--data=torch.nn.Linear",
        "`torch.nn.Linear` is not a subclass of `LightningDataModule` at `data`, in `--data=torch",
    ),
    ("--data=torch.1", "`torch.1` is neither a file nor a class that fits at `data`, in `--data=torch.1`."),
]

# an overlay, and a piece of the expected line
IN_FILES: list[tuple[str, str]] = [
    (
        "model:\n  init_args:\n    gradient_transform:\n      class_path: GradDrp",
        f"`GradDrp` is neither a file nor a class that fits {AT}, in overlay.yaml line 4. Near matches: `GradDrop`",
    ),
    (
        "model:\n  init_args:\n    gradient_transform:\n      init_args:\n        rat: 0.4",
        f"`rat` is not an argument of `GradDrop` {AT}, in overlay.yaml line 5. Near matches: `rate`",
    ),
    (
        "model:\n  init_args:\n    gradient_transfom: GradDrop",
        "`gradient_transfom` is not an argument of `Reader` at `model`, in overlay.yaml line 3. "
        "Near matches: `gradient_transform`.",
    ),
    (
        "model:\n  init_arg:\n    lr: 1",
        "`init_arg` is not an argument of `Reader` at `model`, in overlay.yaml line 2. Near matches: `init_args`.",
    ),
    (
        "model:\n  init_args:\n    gradient_transform:\n      class_path: Chain\n      init_args:\n"
        "        transforms:\n        - {class_path: GradDrop, init_args: {rate: 0.1}}\n"
        "        - {class_path: ComponentNormClip, init_args: {max_nrm: 1.0}}",
        "`max_nrm` is not an argument of `ComponentNormClip` at `model.gradient_transform.transforms`, "
        "in overlay.yaml line 8. Near matches: `max_norm`, `norm`.",
    ),
    (
        "model:\n  init_args:\n    gradient_transform:\n      class_path: Chain\n      init_args:\n"
        "        transforms:\n          mask:\n            class_path: GradDrop\n            init_args:\n"
        "              rate: {class_path: Linear, init_args: {strt: 1.0}}",
        "`strt` is not an argument of `Linear` at `model.gradient_transform.transforms.rate`, in overlay.yaml line 10. "
        "Near matches: `start`.",
    ),
    ("trianer:\n  max_epochs: 3", "`trianer` is not an option, in overlay.yaml line 1. Near matches: `trainer`."),
    (
        "trainer:\n  max_epoch: 3",
        "`max_epoch` is not an option at `trainer`, in overlay.yaml line 2. Near matches: `max_epochs`",
    ),
    (
        "trainer:\n  callbacks:\n  - class_path: GradientTransformCallback\n    init_args:\n"
        "      gradient_transform: GradDrp",
        "`GradDrp` is neither a file nor a class that fits at `trainer.callbacks.gradient_transform`, "
        "in overlay.yaml line 5.",
    ),
    (
        "data:\n  init_args:\n    size: big",
        "Parameter `size` should be int at `data`, in overlay.yaml line 3. Found `size = big`.",
    ),
    ("model: {class_path: Reader", "overlay.yaml is not valid YAML: "),
    ("", "Found none in `overlay.yaml`."),
    ("only text", "Found none in `overlay.yaml`."),
    ("# nothing", "A config file should hold arguments by name. Found none in `overlay.yaml`."),
    ("\0", "overlay.yaml is not valid YAML: unacceptable character #x0000: control characters are not allowed"),
    (
        "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}",
        "`optimizer` is not an option, in overlay.yaml line 1. It is `--model.optimizer`.",
    ),
    (
        "data:\n  no: 1",
        'overlay.yaml is not valid YAML: the key `no` is not read as text: quote it, as in "no", line 2.',
    ),
    (
        "data:\n  null: 1",
        'overlay.yaml is not valid YAML: the key `null` is not read as text: quote it, as in "null", line 2.',
    ),
]

# values of `TextDataModule` that YAML reads differently, and a piece of the expected line
QUOTED: list[tuple[str, str]] = [
    ("label_names=[yes, maybe]", 'YAML reads yes, on or true as True: if it is a name, quote it, as in "yes".'),
    ("label_names=[good, off]", 'YAML reads no, off or false as False: if it is a name, quote it, as in "no".'),
    ("label_names=[good, null]", 'YAML reads null as None: if it is a name, quote it, as in "null".'),
    ("text_columns=[1e3, b]", "YAML reads it as the number 1000.0: if it is a name, quote it."),
    ("data_files={train: no}", "YAML reads no, off or false as False: if it is a name, quote it"),
    ("splits={train: off}", "YAML reads no, off or false as False: if it is a name, quote it"),
    ("data_files={no: a.csv}", 'It is not valid YAML: the key `no` is not read as text: quote it, as in "no".'),
    ("batch_size=on", "Found `batch_size = True`."),  # not a name, so there is no hint to quote it
    ("max_length=no", "Found `max_length = False`."),
    ("max_length=[a", "Found `max_length = [a`. It is not valid YAML: did not find expected ',' or ']'."),
]


class Answer(NamedTuple):
    line: str
    message: str
    parser: ArgumentParser


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    return capture_parser(SparseGradCLI, args=[])


@pytest.fixture(scope="module")
def answers(parser: ArgumentParser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """The answers of `fit` on the base config to all flags, overlays and values."""
    known: dict[str, Answer] = {}
    asked: list[tuple[str, ArgumentParser]] = []

    def diagnose(message: str, at_work: ArgumentParser) -> str:
        asked.append((message, at_work))
        return _diagnosis.diagnose(message, at_work)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("mistakes"))
        patch.delenv("SPARSEGRAD_DEBUG", raising=False)
        patch.setattr(parser_module, "diagnose", diagnose)
        Path("base.yaml").write_text(BASE)
        Path("items").write_text("- 1")
        Path("torn").write_text("{max_epochs: [}")
        Path("folder").mkdir()
        for flags in (*dict(IN_FLAGS), *dict(QUOTED), *dict(IN_FILES)):
            arguments = flags.split(" ")
            if flags in dict(QUOTED):
                arguments = ["--data=lightning_sparsegrad.TextDataModule", f"--data.{flags}"]
            elif flags in dict(IN_FILES):
                Path("overlay.yaml").write_text(flags)
                arguments = ["--config=overlay.yaml"]
            command = [flags] if flags == "fti" else ["fit", "--config", "base.yaml", *arguments]
            with redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit, match=r"^2$"):
                parser.parse_args(command)
            (line,) = stderr.getvalue().splitlines()
            known[flags] = Answer(line, *asked[-1])
    return known


@pytest.mark.parametrize("table", [IN_FLAGS, IN_FILES, QUOTED], ids=["flags", "files", "values"])
def test_a_mistake_is_named(
    table: list[tuple[str, str]], answers: dict[str, Answer], subtests: pytest.Subtests
) -> None:
    for given, answer in table:
        with subtests.test(given=given):
            line = answers[given].line
            assert line.startswith("error: ")
            assert line.endswith(f" {HINT}")
            assert answer in line
            assert "quote" not in line or "quote" in answer


def test_what_a_callback_refuses_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, reason in (
        ("+=ProgressLines --trainer.callbacks.interval=-3", "Found `interval = -3.0`."),
        ("=EarlyStopping --trainer.callbacks.monitor=a --trainer.callbacks.mode=up", "`mode` can be min, max, got up"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["fit", f"--model={__name__}.Careful", "--seed_everything=0", *f"--trainer.callbacks{flag}".split()])
        assert reason in capsys.readouterr().err.splitlines()[-1]


# ------------------------------------------------------------ texts of jsonargparse
def test_no_rule_is_idle(
    answers: dict[str, Answer], monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    def lines() -> list[str]:
        return [_diagnosis.diagnose(answer.message, answer.parser) for answer in answers.values()]

    whole = lines()
    for rule in list(_diagnosis.RULES):
        with subtests.test(rule=rule.pattern), monkeypatch.context() as patch:
            patch.delitem(_diagnosis.RULES, rule)
            assert lines() != whole


def reworded(text: str, draw: random.Random) -> Iterator[str]:
    """Yield variants of a text, as another release may word it."""
    lines = text.splitlines()
    yield from ("", text[: draw.randrange(len(text))], text.upper(), text.replace("'", ""), text.replace('"', "'"))
    yield "\n".join(line for line in lines if draw.random() < 0.7)
    yield "\n".join(draw.sample(lines, len(lines)))
    words = text.split(" ")
    yield " ".join(word for word in words if draw.random() < 0.9)
    yield " ".join(draw.choice(["Otherwise", "", word, word, word]) for word in words)
    yield "".join(each for each in text if draw.random() < 0.98)


def test_another_wording_is_answered_in_a_line_as_well(answers: dict[str, Answer]) -> None:
    draw = random.Random(0)  # noqa: S311  # no secret
    for answer in answers.values():
        for text in reworded(answer.message, draw):
            line = _diagnosis.diagnose(text, answer.parser)
            assert line.isprintable(), text
            assert line.endswith(HINT), text


def test_a_union_of_another_wording_is_shown_as_it_is() -> None:
    text = """Parser key "rate":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'float'>, <class 'int'>]
  Errors:
    - Expected a <class 'float'>
    - Expected a <class 'int'>
  Given value: half"""
    assert reason_in(ValueError(text)) == "Expected a <class 'float'>, <class 'int'>. Got value: half"
    for lost in ("Subtypes: ", "Given value"):
        reworded = reason_in(ValueError(text.replace(lost, "Otherwise: ")))
        assert reworded == "Expected a <class 'float'>"


def test_full_text_on_request(
    parser: ArgumentParser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARSEGRAD_DEBUG", "1")
    with pytest.raises(SystemExit, match=r"^2$"):
        parser.parse_args(["fit", f"--model={__name__}.Reader", "--model.optimizer.lrr=0.4"])
    text = capsys.readouterr().err
    assert "Does not validate against any of the Union subtypes" in text
    assert "usage:" in text


def test_plain_error_in_one_line() -> None:
    line = one_line(ValueError("Parameter `rate` should be\n  in [0, 1]."))
    assert line == f"Parameter `rate` should be in [0, 1]. {HINT}"


def test_names_of_languages_are_quoted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--model=SequenceClassification", "--model.model_name_or_path=x", "--model.gradient_transform=Identity"]
    for text, answer in {
        "languages: [en, no]": "Found `languages = ['en', False]`. YAML reads no, off or false as False",
        "languages: [en, 'no']": "`languages` should be",  # read correctly, but no language of XGLUE
    }.items():
        path = tmp_path / "a.yaml"
        path.write_text(f"data:\n  class_path: XglueDataModule\n  init_args:\n    task: ner\n    {text}\n")
        with pytest.raises(SystemExit, match=r"^2$"):
            main(["fit", "--seed_everything=0", *words, "--config", str(path)])
        assert answer in capsys.readouterr().err.splitlines()[-1]
