"""Private names of Lightning that the command line uses: hooks of LightningCLI, and the modules that raise errors.

`tests/private_names.py` records what breaks without each, and the upstream issue that may end the need for it.
"""

from abc import abstractmethod
from traceback import walk_tb
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, _get_module_type, _InstantiatorFn
from typing_extensions import override

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.loops._monitored import is_about_monitor
from lightning_sparsegrad.resume._checkpoints import about_checkpoint, is_about_checkpoint

# errors that classes raise about their arguments; any other error may be a bug and keeps its traceback
ABOUT_ARGUMENTS = (ValueError, TypeError, OSError, ImportError, MisconfigurationException)

Instantiator = _InstantiatorFn  # makes the model and the data, and stores their arguments as hyperparameters


def argument(cli: LightningCLI, key: str) -> Any:
    """Return an argument from the config of a command."""
    return cli._get(cli.config, key)


def add_instantiators(cli: LightningCLI, model: Instantiator, data: Instantiator) -> None:
    """Make model and data with these instantiators instead of Lightning's own."""
    cli.parser.add_instantiator(model, _get_module_type(cli._model_class), subclasses=cli.subclass_mode_model)
    cli.parser.add_instantiator(data, _get_module_type(cli._datamodule_class), subclasses=cli.subclass_mode_data)


class GuardedCLI(LightningCLI):
    """LightningCLI in which no checkpoint runs code or overrides the user's arguments, and a refusal is one line."""

    @property
    def subcommand_parsers(self) -> dict[str, LightningArgumentParser]:
        """The parser of each subcommand; empty for a command line with `run=False`."""
        parsers: dict[str, LightningArgumentParser] = vars(self).get("_subcommand_parsers", {})
        return parsers

    @property
    @abstractmethod
    def returns_predictions(self) -> bool:
        """Whether `predict` returns its predictions by default."""

    @override
    def _parse_ckpt_path(self) -> None:
        # Lightning lets the arguments in a checkpoint override the user's: Lightning#20801
        pass

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """Return LightningCLI's subcommands without `weights_only`: in a file it would let a checkpoint run code."""
        return {name: {*left_out, "weights_only"} for name, left_out in LightningCLI.subcommands().items()}

    @override
    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        # by default Lightning runs code in checkpoints loaded over http, and keeps all predictions in memory
        given = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        if given.get("return_predictions", True) is None:
            given["return_predictions"] = self.returns_predictions
        return given

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Run; raise a `ConfigurationError` if the checkpoint cannot be read or belongs to another model."""
        try:
            super()._run_subcommand(subcommand)
        except ConfigurationError:
            raise
        except Exception as error:
            if is_about_checkpoint(error):
                raise ConfigurationError(about_checkpoint(argument(self, "ckpt_path"), error)) from error
            *_, (frame, _) = walk_tb(error.__traceback__)
            raising = str(frame.f_globals.get("__name__"))
            is_about_search = isinstance(error, AttributeError) and raising.startswith("lightning.pytorch.tuner.")
            is_about_arguments = isinstance(error, ABOUT_ARGUMENTS) and raising.startswith("lightning.")
            if is_about_search or is_about_arguments or is_about_monitor(error):
                raise ConfigurationError(str(error)) from error
            raise
