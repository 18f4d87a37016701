"""Modules and data that are loaded from a checkpoint of any origin."""

from contextlib import suppress
from typing import Any

from lightning_sparsegrad.files._checksums import require_intact
from lightning_sparsegrad.untrusted._lightning import restricted_classmethod

_OTHERS = 3  # arguments by position, the last of which may be `weights_only`


class LoadedFromStrangers:
    """A `load_from_checkpoint` that calls nothing the parameters do not ask for, and reads no damaged file."""

    @restricted_classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Load, as Lightning does.

        Args:
            checkpoint_path: The checkpoint.
            *args: What Lightning takes.
            **kwargs: What Lightning takes. `weights_only` is `True` by default, for a checkpoint from http as well.

        Raises:
            ConfigurationError: If the file is damaged.
        """
        with suppress(ModuleNotFoundError):  # without jsonargparse, nothing is called
            # checks the arguments of all that jsonargparse makes
            from lightning_sparsegrad.untrusted import _callables  # noqa: F401  # for what its import does
        if isinstance(checkpoint_path, str) or hasattr(checkpoint_path, "__fspath__"):
            require_intact(checkpoint_path)
        if len(args) < _OTHERS and kwargs.get("weights_only") is None:
            kwargs["weights_only"] = True
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)  # type: ignore[misc]
