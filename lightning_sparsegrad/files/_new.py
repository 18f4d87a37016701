"""The path of a new file, checked before the work whose result it takes."""

import os
from pathlib import Path

from lightning_sparsegrad.errors import ConfigurationError


def require_new(path: str | Path, parameter: str) -> None:
    """Check that a file does not exist, and that it can be written.

    Args:
        path: Its path.
        parameter: What it was given for, named in the error.

    Raises:
        ConfigurationError: If it exists, or its folder is none or is closed to this user.
    """
    file = Path(path)  # an empty text is the folder
    above = next((folder for folder in file.absolute().parents if os.path.lexists(folder)), file)
    if str(path).endswith("/"):
        problem = "which is no file"
    elif os.path.lexists(file):
        problem = "which exists"
    elif not above.is_dir():
        problem = f"while `{above}` is no folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        problem = f"while `{above}` is closed to you"
    else:
        return
    raise ConfigurationError(
        f"Parameter `{parameter}` should be the path of a new file. Found `{parameter} = {path}`, {problem}."
    )
