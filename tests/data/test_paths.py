"""Paths are read literally: whatever characters a path has, only the file of that very name is read."""

import os
import shutil
from pathlib import Path

import datasets
import pytest

from lightning_sparsegrad.data import EmojiTopicsDataModule, GlueDataModule, TextDataModule, WordsDataModule
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.hub._names import resolve_source
from tests.cases import cases
from tests.data.helpers import write
from tests.hub import write_glue

# what each would find if it were taken for a pattern, a variable, a home, a chain of URLs
ODD = {
    "a[1]": "a1",
    "a*b": "aXb",
    "a?b": "aXb",
    "a::b": "a",
    "zip:::b": "zip:",
    "$PLACE": "place",
    "~x": "x",
    "a{1,2}": "a1",
    "-a b": "-ab",
    "a\nb": "ab",
    "hf:": "hf",
    "é@中#%20": "é@中# ",
}
FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")


@pytest.fixture(autouse=True)
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLACE", "place")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path: Path, text: str) -> None:
    """Write a file of two rows with any name, which some writers would read as a pattern or URL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = Path.cwd() / f"plain{path.suffix}"
    write(plain, text=[text, text], label=["x", "y"])
    plain.rename(path)


@cases("extension", FORMATS)
def test_the_file_of_the_very_name_is_read(extension: str, work_folder: Path) -> None:
    for index, (name, other) in enumerate(ODD.items()):
        rows(work_folder / f"{other}.{extension}", "wrong")
        rows(work_folder / f"{name}.{extension}", f"right {index}")
        file = f"{name}.{extension}"
        for given in (file, str(work_folder / file), [file]):
            assert set(TextDataModule(data_files={"train": given}).rows("train")["text"]) == {f"right {index}"}


@pytest.mark.parametrize("files", [("train.csv",), ("train.csv", "dev.csv"), ("train.parquet", "dev.parquet")])
def test_the_folder_of_the_very_name_is_read(files: tuple[str, ...], work_folder: Path) -> None:
    for name, other in ODD.items():
        for file in files:
            rows(work_folder / other / file, "wrong")
            rows(work_folder / name / file, f"right {name}")
        for given in (name, f"./{name}", str(work_folder / name)) if len(files) == 1 else (name,):
            data = TextDataModule(given)
            for split in ("train", "validation")[: len(files)]:
                assert set(data.rows(split)["text"]) == {f"right {name}"}


def test_a_folder_that_datasets_would_read_as_a_pattern_is_refused(work_folder: Path) -> None:
    settings = "---\nconfigs:\n- config_name: default\n  data_files: rows.csv\n---\n"
    for name in ("a1", "a[1]"):
        rows(work_folder / name / "rows.csv", name)
        (work_folder / name / "README.md").write_text(settings)
    assert set(TextDataModule("a1").rows("train")["text"]) == {"a1"}
    with pytest.raises(ConfigurationError, match=r"`dataset` should be a folder without '\[' in its path"):
        TextDataModule("a[1]").rows("train")


def test_all_is_read_where_the_working_directory_is_a_pattern(
    work_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, word in (("run1", "wrong"), ("run[1]", "right")):
        (work_folder / name).mkdir()
        monkeypatch.chdir(work_folder / name)
        write_glue(Path("glue"), "cola")
        Path("words.conll").write_text(f"{word} X\n")
        Path("words.conllu").write_text(f"1\t{word}\t_\tX\t_\t_\t_\t_\t_\t_\n")
    shutil.rmtree(work_folder / "run1" / "glue")
    assert GlueDataModule("cola", dataset="glue").rows("train")
    conll = WordsDataModule(data_files={"train": "words.conll"}, words_column="words", tags_column="tags")
    trees = WordsDataModule(data_files={"train": "words.conllu"}, words_column="words", tags_column="upos")
    assert conll.rows("train")["words"][0] == trees.rows("train")["words"][0] == ["right"]


def test_a_cache_may_lie_anywhere(work_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", work_folder / "cache[1]")
    rows(work_folder / "a.csv", "right")
    rows(work_folder / "b.parquet", "right")
    for file in ("a.csv", "b.parquet"):
        assert set(TextDataModule(data_files={"train": file}).rows("train")["text"]) == {"right"}


def test_a_link_is_what_it_points_to(work_folder: Path) -> None:
    rows(work_folder / "there" / "x[1].csv", "right")
    (work_folder / "here[1]").symlink_to(work_folder / "there")
    (work_folder / "link.csv").symlink_to(work_folder / "there" / "x[1].csv")
    for given in ("here[1]/x[1].csv", "link.csv"):
        assert set(TextDataModule(data_files={"train": given}).rows("train")["text"]) == {"right"}


def test_a_home_is_a_home_unless_there_is_such_a_name(work_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(work_folder / "home"))
    rows(work_folder / "home" / "a.csv", "at home")
    assert TextDataModule(data_files={"train": "~/a.csv"}).rows("train")["text"][0] == "at home"
    assert resolve_source("~nobody-of-that-name/a") == "~nobody-of-that-name/a"
    with pytest.raises(ConfigurationError, match=r"Found `data_files.train = '~nobody-of-that-name/a.csv'`"):
        TextDataModule(data_files={"train": "~nobody-of-that-name/a.csv"})
    with pytest.raises(ConfigurationError, match=r"`root` should be a folder"):
        EmojiTopicsDataModule(root="~nobody-of-that-name")
    rows(work_folder / "~" / "a.csv", "here")
    assert TextDataModule(data_files={"train": "~/a.csv"}).rows("train")["text"][0] == "here"


@cases("name", ["hf://datasets/a/b.csv", "s3://a/b.csv", "https://localhost:9/a.csv", "zip://a.csv::b.zip"])
def test_a_url_is_no_file(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Data files should (exist|end in)"):
        TextDataModule(data_files={"train": name})


def test_a_file_with_a_changed_content_is_read_again(work_folder: Path) -> None:
    path = work_folder / "a.parquet"
    rows(path, "before")
    stamp = path.stat()
    assert TextDataModule(data_files={"train": str(path)}).rows("train")["text"][0] == "before"
    rows(path, "later!")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert TextDataModule(data_files={"train": str(path)}).rows("train")["text"][0] == "later!"
