"""Files are complete or do not exist, also on a full disk; leftovers of killed processes are removed."""

import os
import resource
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lightning_sparsegrad.files._unfinished import Unfinished, new_folder, sweep
from lightning_sparsegrad.files._writing import creating, fill, full_disk, replacing, write_new

LEFT = ".a.ckpt.0123456789abcdef.part"
LIMIT = 40_000  # bytes of a file


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with a blank ü").mkdir()
    monkeypatch.chdir(tmp_path / "with a blank ü")


@pytest.fixture
def full() -> Iterator[None]:
    """Let no file grow beyond a limit, as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def names() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file() or path.is_symlink())


def replace(path: str, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def silent(file: Any) -> None:
    """Write like libraries that replace or hide the error."""
    try:
        file.write(bytes(2 * LIMIT))
    except OSError as error:
        raise RuntimeError("unexpected position") from error


def quiet(file: Any) -> None:
    with suppress(OSError):
        file.write(bytes(2 * LIMIT))


WRITERS: dict[str, Callable[[Any], Any]] = {
    "torch": lambda file: torch.save({"weights": torch.zeros(LIMIT)}, file),
    "torch, many": lambda file: torch.save([torch.zeros(100) for _ in range(200)], file),
    "parquet": lambda file: pd.DataFrame({"a": range(LIMIT)}).to_parquet(file),
    "csv": lambda file: pd.DataFrame({"a": range(LIMIT)}).to_csv(file),
    "another error": silent,
    "no error": quiet,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.usefixtures("full")
def test_a_full_disk_leaves_what_was_there(write: Callable[[Any], Any]) -> None:
    Path("a.ckpt").write_text("before")
    with pytest.raises(OSError, match=r"File too large: '.*a\.ckpt'"), replacing(Path("a.ckpt").absolute()) as file:
        write(file)
    assert names() == ["a.ckpt"]
    assert Path("a.ckpt").read_text() == "before"


@pytest.mark.usefixtures("full")
def test_a_full_disk_leaves_no_new_file() -> None:
    with pytest.raises(OSError, match=r"File too large: 'out/a'"), creating("out/a") as file:
        quiet(file)
    assert not names()


def test_a_new_file_takes_no_name_that_is_taken() -> None:
    with creating("out/a") as file:
        file.write(b"first")
        assert not Path("out/a").exists()
    with pytest.raises(FileExistsError, match="out/a"), creating("out/a") as file:
        file.write(b"second")
    Path("b").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="b"), creating("b") as file:
        file.write(b"third")
    assert names() == ["b", "out/a"]
    assert Path("out/a").read_bytes() == b"first"


@pytest.mark.usefixtures("full")
def test_a_full_disk_leaves_no_empty_files() -> None:
    with pytest.raises(OSError, match=r"File too large: 'out/a\.md'"):
        write_new("out/a", {".csv": b"1", ".md": bytes(2 * LIMIT)})
    assert not names()


@pytest.mark.parametrize("error", [OSError(28, "full"), Exception("I/O error: No space left on device (os error 28)")])
def test_a_full_disk_is_found_behind_other_errors(error: Exception) -> None:
    other = RuntimeError("a failure")
    other.__cause__ = error
    full = full_disk(other, "out")
    assert full is not None
    assert str(full) == "[Errno 28] No space left on device: 'out'"
    assert full_disk(ValueError("(os error 2)"), "out") is None


def test_an_error_of_the_writer_stays_what_it_is() -> None:
    with pytest.raises(FileNotFoundError, match="other"), replacing("a"):
        Path("other").read_text()
    assert not names()


@pytest.mark.parametrize("link", ["a.ckpt", LEFT, ".a.ckpt.part"])
def test_no_link_is_followed(link: str) -> None:
    Path("mine.txt").write_text("mine")
    Path(link).symlink_to("mine.txt")
    replace("a.ckpt", b"new")
    assert Path("mine.txt").read_text() == "mine"
    assert Path("a.ckpt").read_text() == "new"
    assert not Path("a.ckpt").is_symlink()
    assert write_new("a", {".ckpt": b"other"}) == "a-v1"


def test_a_name_that_somebody_has_guessed_is_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.txt").write_text("mine")
    Path(".a.1.part").symlink_to("mine.txt")
    Path(".a.2.part").write_text("mine")
    digits = iter("123")
    monkeypatch.setattr("lightning_sparsegrad.files._unfinished.token_hex", lambda _: next(digits))
    replace("a", b"new")
    assert Path("a").read_text() == "new"
    assert Path("mine.txt").read_text() == Path(".a.2.part").read_text() == "mine"


def test_a_link_to_nothing_is_not_written_through() -> None:
    Path("a.csv").symlink_to("nothing")
    assert write_new("a", {".csv": b"1"}) == "a-v1"
    assert names() == ["a-v1.csv", "a.csv"]


def test_a_folder_in_the_way_stays() -> None:
    Path("a.csv").mkdir()
    with pytest.raises(IsADirectoryError, match=r"'a\.csv'"):
        replace("a.csv", b"1")
    assert write_new("a", {".csv": b"1"}) == "a-v1"
    assert names() == ["a-v1.csv"]


@pytest.mark.parametrize("name", ["ü" * 100, "a" * 250, "a\nb", "-rf", os.fsdecode(b"\xff")])
def test_any_name_of_a_file(name: str) -> None:
    replace(name, b"1")
    replace(name, b"2")
    assert names() == [name]
    assert Path(name).read_text() == "2"


def test_files_have_the_rights_that_others_would_have() -> None:
    Path("other").touch()
    replace("a", b"")
    write_new("b", {"": b""})
    assert len({stat.S_IMODE(Path(name).stat().st_mode) for name in ("other", "a", "b")}) == 1


def test_a_file_system_without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert [write_new("a", {".csv": b"1"}) for _ in range(2)] == ["a", "a-v1"]
    assert [Path(name).read_text() for name in names()] == ["1", "1"]


# ------------------------------------------------------------ what was left
def killed() -> None:
    """Leave a file and a folder half-written."""
    if not (process := os.fork()):
        with Unfinished(Path("a.ckpt")) as part, new_folder(Path("out")) as made:
            part.write(b"half")
            (made / "b").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    assert len(names()) == 2


@pytest.mark.parametrize("then", [lambda: sweep("."), lambda: replace("b", b""), lambda: write_new("b", {"": b""})])
def test_what_a_killed_process_left_goes(then: Callable[[], object]) -> None:
    killed()
    then()
    assert names() in ([], ["b"])
    assert not list(Path().glob(".*"))


def test_what_another_is_writing_stays() -> None:
    with replacing("a") as file, new_folder(Path("out")) as made:
        (made / "b").touch()
        sweep(".")
        sweep(made)
        assert len(names()) == 2
        file.write(b"1")
    assert names() == ["a"]


def test_files_of_a_user_stay() -> None:
    mine = [".a.part", "a.0123456789abcdef.part", ".a.0123456789ABCDEF.part", ".a.0123456789abcdef.part.txt"]
    for name in mine:
        Path(name).touch()
    Path(LEFT).symlink_to(mine[0])
    sweep(".")
    sweep("nowhere")
    assert names() == sorted([*mine, LEFT])


def test_a_folder_is_filled_whole_or_not_at_all() -> None:
    for taken in (False, True):
        with new_folder(Path("out")) as made:
            for name in ("a", "b/c", "d"):
                (made / name).parent.mkdir(exist_ok=True)
                (made / name).touch()
            Path("out").mkdir(exist_ok=True)
            if taken:
                Path("out/d").write_text("mine")
                with pytest.raises(FileExistsError):
                    fill(Path("out"), made)
            else:
                fill(Path("out"), made)
        assert names() == (["out/d"] if taken else ["out/a", "out/b/c", "out/d"])
        for name in names():
            Path(name).unlink()
        shutil.rmtree("out")
