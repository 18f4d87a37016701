"""Safe loading of modules and data from a checkpoint of any origin."""

from contextlib import suppress
from typing import Any

from lightning_sparsegrad.files._checksums import require_intact
from lightning_sparsegrad.untrusted._lightning import restricted_classmethod

_OTHERS = 3  # positional arguments after the path, of which the third is `weights_only`


class LoadedFromStrangers:
    """Mixin whose `load_from_checkpoint` calls only what parameters expect, and refuses damaged files."""

    @restricted_classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Load a checkpoint like Lightning's method of the same name.

        Args:
            checkpoint_path: The checkpoint.
            *args: Arguments of Lightning's method.
            **kwargs: Arguments of Lightning's method. `weights_only` is `True` by default, also for a checkpoint from
                http.

        Raises:
            ConfigurationError: If the file is damaged.
        """
        with suppress(ModuleNotFoundError):  # without jsonargparse, a checkpoint calls nothing
            # the import makes jsonargparse check the arguments of everything that it instantiates
            from lightning_sparsegrad.untrusted import _callables  # noqa: F401  # for its effect
        if isinstance(checkpoint_path, str) or hasattr(checkpoint_path, "__fspath__"):
            require_intact(checkpoint_path)
        if len(args) < _OTHERS and kwargs.get("weights_only") is None:
            kwargs["weights_only"] = True
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)  # type: ignore[misc]
