"""The path of a mask file, checked before the work whose result it takes."""

import os
from pathlib import Path

from lightning_sparsegrad.errors import ConfigurationError


def require_new(output: str) -> None:
    """Check that a file does not exist, and that it can be written.

    Raises:
        ConfigurationError: If it exists, or its folder is none or is closed to this user.
    """
    path = Path(output)
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if output.endswith("/") or os.path.lexists(path):
        problem = "which is no file" if output.endswith("/") else "which exists"
    elif not above.is_dir():
        problem = f"while `{above}` is no folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        problem = f"while `{above}` is closed to you"
    else:
        return
    raise ConfigurationError(
        f"Parameter `output` should be the path of a new file. Found `output = {output}`, {problem}."
    )
