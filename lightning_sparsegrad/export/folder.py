"""The folder that an export writes: new or empty, and again so if the export fails."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_sparsegrad.errors import ConfigurationError


def require_free(output: str) -> Path:
    """Return the path of a folder that is not there or empty.

    Raises:
        ConfigurationError: If it holds something, or is a file.
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "which holds files already" if folder.is_dir() else "which is a file"
        raise ConfigurationError(
            f"Parameter `output` should be a folder that is new or empty. Found `output = {output}`, {what}."
        )
    return folder


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Make a folder to be written; if that fails, take away what was written."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if is_new:
            folder.rmdir()
        raise
