"""Private names of Lightning's loggers.

There are no public equivalents. Each name is checked against the installed version in `tests/private_names.py`.
"""

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_sparsegrad.errors import needs_private_names

_folders = needs_private_names("lightning", "a folder of logs for each run")


@_folders
def given_version(logger: CSVLogger | TensorBoardLogger) -> int | str | None:
    """Return the version that a logger was given or has chosen; `None` if it has not chosen yet.

    Reading `logger.version` chooses one. Without this, two runs that start at the same time would log into one folder:
    Lightning#11418 (closed unfixed).
    """
    return logger._version


@_folders
def set_version(logger: CSVLogger | TensorBoardLogger, version: int | str | None) -> None:
    """Make a logger log into the folder of a version. As above: Lightning#11418."""
    _ = logger._version  # raises if the logger has no such attribute
    logger._version = version
