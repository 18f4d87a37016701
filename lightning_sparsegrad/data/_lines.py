"""Text files in UTF-8, possibly compressed by gzip, and digests of files for the cache."""

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def lines_of(path: str) -> Iterator[str]:
    """Yield the lines of a text file with their endings: a line feed, a carriage return, or both.

    Raises:
        ValueError: If a line is not UTF-8, or has a NUL character.
    """
    with Path(path).open("rb") as file:
        start = file.read(2)
    if start in _UTF_16:
        raise ValueError(f"{Path(path).name} should be text in UTF-8. Found UTF-16")
    is_packed = start == _GZIP
    options = {"encoding": "utf-8-sig", "newline": ""}
    try:
        with gzip.open(path, "rt", **options) if is_packed else Path(path).open(**options) as lines:  # type: ignore[call-overload]
            for number, line in enumerate(lines, start=1):
                if "\0" in line:
                    raise ValueError(
                        f"{Path(path).name}: line {number} should be text without NUL characters. Found one"
                    )
                yield line
    except UnicodeDecodeError as error:
        raise ValueError(_about_encoding(path, error, is_packed=is_packed)) from None


def digests_of(paths: Sequence[str]) -> tuple[str, ...]:
    """Return hashes of the contents of files and of the code of this package: a change invalidates the cache."""
    digests = []
    for path in (*sorted(Path(__file__).parent.glob("*.py")), *map(Path, paths)):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return tuple(digests)


def _about_encoding(path: str, cause: UnicodeDecodeError, *, is_packed: bool) -> str:
    """Return an error sentence with the number of the line, since the error itself counts bytes of a block."""
    with gzip.open(path) if is_packed else Path(path).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                bad_byte = f"byte 0x{line[error.start]:02x}, {error.reason}"
                return f"{Path(path).name}: line {number} should be text in UTF-8. Found: {bad_byte}"
    return str(cause)
