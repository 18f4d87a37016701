"""The folder that an export writes, which stays unchanged if the export fails."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.files._unfinished import new_folder
from lightning_sparsegrad.files._writing import fill, full_disk


def require_free(output: str) -> Path:
    """Check that a folder does not exist or is empty, and return its path.

    Raises:
        ConfigurationError: If it has files, or is a file.
    """
    folder = Path(output)
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        what = "which already has files" if folder.is_dir() else "which is a file"
        raise ConfigurationError(
            f"Parameter `output` should be a folder that is new or empty. Found `output = {output}`, {what}."
        )
    return folder


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to write into, and rename it when it is complete.

    Raises:
        ConfigurationError: If another process has written there in the meantime.
    """
    with new_folder(folder.absolute()) as made:
        try:
            yield made
        except Exception as error:
            if full := full_disk(error, str(folder)):
                raise full from error
            raise
        require_free(str(folder))
        if folder.exists():  # it exists with its own permissions
            try:
                fill(folder, made)
            except FileExistsError:
                require_free(str(folder))
                raise
            return
        try:
            made.rename(folder)
        except OSError as error:
            require_free(str(folder))
            raise OSError(error.errno, error.strerror, str(folder)) from error
