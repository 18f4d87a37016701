"""Names that YAML reads as something else: one line says to quote them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_sparsegrad.main import main

TEXTS = "lightning_sparsegrad.TextDataModule"
GIVEN = [
    "fit",
    "--seed_everything=0",
    "--model=SequenceClassification",
    "--model.model_name_or_path=x",
    "--model.gradient_transform=Identity",
]


@pytest.fixture
def error_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as exit_info:
            main([*GIVEN, *arguments])
        assert exit_info.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("label_names=[yes, maybe]", 'YAML reads yes, on or true as True: if it is a name, quote it, as in "yes".'),
        ("label_names=[good, off]", 'YAML reads no, off or false as False: if it is a name, quote it, as in "no".'),
        ("label_names=[good, null]", 'YAML reads null as None: if it is a name, quote it, as in "null".'),
        ("text_columns=[1e3, b]", "YAML reads it as the number 1000.0: if it is a name, quote it."),
        ("data_files={train: no}", "YAML reads no, off or false as False: if it is a name, quote it"),
        ("splits={train: off}", "YAML reads no, off or false as False: if it is a name, quote it"),
        ("data_files={no: a.csv}", 'It is no YAML: the key `no` is read as no text: quote it, as in "no".'),
    ],
)
def test_flags(flag: str, hint: str, error_of: Callable[..., str]) -> None:
    line = error_of(f"--data={TEXTS}", f"--data.{flag}")
    assert f"Parameter `{flag.partition('=')[0]}` should be " in line
    assert hint in line


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("languages: [en, no]", "Found `languages = ['en', False]`. YAML reads no, off or false as False"),
        ("languages: [en, 'no']", "`languages` should be"),  # read, and of no XGLUE task
        ("no: 1", 'the key `no` is read as no text: quote it, as in "no", line 5.'),
        ("null: 1", 'the key `null` is read as no text: quote it, as in "null", line 5.'),
    ],
)
def test_files(text: str, hint: str, error_of: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"data:\n  class_path: XglueDataModule\n  init_args:\n    task: ner\n    {text}\n")
    assert hint in error_of("--config", str(path))


@pytest.mark.parametrize("flag", ["batch_size=on", "max_length=no", "max_length=[a"])
def test_what_is_no_name_has_no_hint(flag: str, error_of: Callable[..., str]) -> None:
    assert "quote" not in error_of("--data=XglueDataModule", "--data.task=ner", f"--data.{flag}")
