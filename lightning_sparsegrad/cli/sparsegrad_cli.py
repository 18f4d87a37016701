"""The command line: `sparsegrad fit --config task.yaml --config strategy.yaml --model.gradient_transform.rate=0.4`."""

import sys
from copy import deepcopy
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from typing_extensions import override

import lightning_sparsegrad.data
import lightning_sparsegrad.modules._exports
import lightning_sparsegrad.transforms  # noqa: F401  # imported classes can be named without their module
from lightning_sparsegrad.callbacks import ExactResume, PredictionWriter, ProgressLines, ResultsTable
from lightning_sparsegrad.callbacks._folder_claims import FolderClaims
from lightning_sparsegrad.cli._checkpoint_defaults import require_same_seed, set_stored_defaults, where_paths_start
from lightning_sparsegrad.cli._config_files import each_read_once
from lightning_sparsegrad.cli._fit_summary import fit_and_summarize
from lightning_sparsegrad.cli._given import Given
from lightning_sparsegrad.cli._instantiators import FROM_DATA, DataInstantiator, ModelInstantiator, refusals, settle
from lightning_sparsegrad.cli._lightning import GuardedCLI, add_instantiators, argument
from lightning_sparsegrad.cli._run_config import StoreConfigCallback
from lightning_sparsegrad.cli._trainer_checks import check_trainer
from lightning_sparsegrad.cli.parser import SparseGradArgumentParser
from lightning_sparsegrad.data import TokenizedDataModule
from lightning_sparsegrad.data._checks import require_seed
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.files._checksums import IntactCheckpoint
from lightning_sparsegrad.loops._callbacks import callbacks_of
from lightning_sparsegrad.loops._monitored import MonitorCheck
from lightning_sparsegrad.modules import TransformerTask
from lightning_sparsegrad.resume._checkpoints import StoredRun
from lightning_sparsegrad.resume._signals import SIGNALS, end, status_of
from lightning_sparsegrad.resume._stopping import Stopping, about_end, end_launched, ended_by_signal


class SparseGradCLI(GuardedCLI):
    """LightningCLI with `SparseGradArgumentParser`, for any LightningModule and any LightningDataModule.

    `fit`, `validate`, `test` and `predict` run the classes that `--model` and `--data` name. If the model takes
    `num_labels` or `label_names` and the data have it, the data determine it. A fit ends with a summary table. These
    callbacks are added: `ExactResume` to a fit, unless `--exact_resume=false`; `ResultsTable`, which shows and writes
    the metrics of `validate` and `test` (so Lightning's `--verbose` is off by default); and `PredictionWriter`, which
    writes the predictions of `predict` for data of this library.

    **With a checkpoint**, its stored arguments are the defaults; files and flags override them.
    `fit --ckpt_path last.ckpt` resumes with all of them, seed and callbacks included, and writes into a new folder
    beside the old one. Optimizer and scheduler follow the new arguments, see `ExactResume`; a seed that would have no
    effect is refused. The other commands take model, data and seed, and only the precision of the Trainer's arguments:
    devices, logger and callbacks were the fit's.

    **SIGTERM and Ctrl+C** end a command with status 143 and 130, and one line on stderr. A fit ends where nothing is
    lost, see `ExactResume`, and the line names the checkpoint to resume from. A second Ctrl+C ends it at once.

    **No file is overwritten.** Config, tables and predictions go into the folder of the run: the logger's, else a new
    `lightning_logs/version_<n>`. If a file of the same name exists, the new file gets a number.

    Note:
        `SECURITY.md` says what a stranger's config or checkpoint can do. In short: it can import modules and
        instantiate classes of the type that an argument expects; nothing else is called. Read both before you run them.

    Args:
        model_class: The only model, or with `subclass_mode_model` the base class of those allowed; by default any.
        datamodule_class: The same for the data.
        **kwargs: The arguments of LightningCLI. By default optimizers are arguments of the model (`OptimizerCallable`)
            rather than of the command line.

    Raises:
        ConfigurationError: If a class refuses its arguments.
        FloatingPointError: If weights or validation loss are not finite at the end of a fit; files written stay.
        SystemExit: With status 143 after SIGTERM while a Trainer runs, and 130 after Ctrl+C.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import DemoModel
        >>> cli = SparseGradCLI(DemoModel, run=False, args=["--model.out_dim=3", "--seed_everything=0"])
        >>> cli.model.l1.out_features
        3
    """

    _claims: FolderClaims | None = None
    _stored: StoredRun | None = None  # from the checkpoint, if the command names one
    _given: Given | None = None

    def __init__(self, model_class: Any = None, datamodule_class: Any = None, **kwargs: Any) -> None:
        defaults = {
            "parser_class": SparseGradArgumentParser,
            "save_config_callback": StoreConfigCallback,
            "auto_configure_optimizers": False,
        }
        self._leave_out_subcommands(kwargs.get("args"))
        try:
            super().__init__(model_class, datamodule_class, **{**defaults, **kwargs})
        except (ConfigurationError, OSError) as error:
            if where := where_paths_start(error, self._stored):
                raise ConfigurationError(f"{error}{where}") from error
            raise
        except BaseException as error:
            trainer: Trainer | None = getattr(self, "trainer", None)
            ending = error if trainer is None else ended_by_signal(trainer, error)
            if trainer is not None and status_of(ending) is not None:
                SIGNALS.hold_off()
                end_launched(trainer)
            end(ending, self._about_end(trainer))
        finally:
            if kwargs.get("run", True) and self._claims is not None:
                self._claims.release()

    def _about_end(self, trainer: Trainer | None) -> str:
        """Return the line for the user about a signal that has ended the command."""
        command, checkpoint = (self._given.subcommand, self._given.checkpoint) if self._given else (None, None)
        if command == "fit":
            return about_end(trainer, checkpoint)
        return f"stopped before `{command}` was done" if command else "stopped"

    # ------------------------------------------------------------ arguments
    def _leave_out_subcommands(self, args: ArgsType) -> None:
        """Make the parser of the subcommand alone that is the first argument: four take half of the time of parsing."""
        words = sys.argv[1:] if args is None else args
        known = self.subcommands()
        if isinstance(words, list) and words and words[0] in known:
            vars(self)["subcommands"] = lambda: {words[0]: known[words[0]]}

    @override
    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        for name in {"validate", "test"} & self.subcommand_parsers.keys():
            self.subcommand_parsers[name].set_defaults({"verbose": False})  # `ResultsTable` shows the same numbers

    @override
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_default_arguments_to_parser(parser)
        parser.add_argument(
            "--exact_resume", type=bool, default=True, help="Whether checkpoints store the state for an exact resume."
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if self.subclass_mode_model and self.subclass_mode_data:
            # jsonargparse ignores a link if the data has no such attribute or the model no such argument
            for name in FROM_DATA:
                parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the arguments, with those stored in the checkpoint as defaults."""
        with each_read_once():
            self._given = given = Given(args, self.subcommand_parsers)
            if given.subcommand:
                self._stored = set_stored_defaults(self.subcommand_parsers[given.subcommand], given)
            # jsonargparse changes a dict in place
            is_dict = isinstance(args, dict | Namespace)
            try:
                self.config = parser.parse_object(deepcopy(args)) if is_dict else parser.parse_args(args)  # type: ignore[arg-type]
            except ValueError as error:  # not caught by jsonargparse: a NUL in a path, a malformed module name
                raise ConfigurationError(str(error)) from error
        config = self.config[given.subcommand] if given.subcommand else self.config
        if type(seed := config.get("seed_everything")) is int:  # not a bool
            require_seed(seed_everything=seed)
        settle(config, self._stored.config if self._stored else None)
        if self._stored and given.subcommand == "fit":
            require_same_seed(config, self._stored)

    # ------------------------------------------------------------ model, data and Trainer
    @override
    def instantiate_classes(self) -> None:
        """Instantiate model, data and Trainer; raise a `ConfigurationError` if one of them refuses its arguments."""
        # a fit compares the classes of its data with those of the checkpoint by itself
        names = self._stored.names if self._stored and self.subcommand != "fit" else None
        add_instantiators(self, ModelInstantiator(self, "model"), DataInstantiator(self, "data", names))
        with refusals(self):
            super().instantiate_classes()
        check_trainer(self.trainer, fits=self.subcommand == "fit")

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Instantiate the Trainer and add the callbacks that the command needs."""
        trainer = super().instantiate_trainer(**kwargs)
        callbacks = callbacks_of(trainer)
        wanted: dict[type[Callback], bool] = {
            MonitorCheck: True,
            IntactCheckpoint: True,
            ResultsTable: True,
            ProgressLines: True,
            ExactResume: argument(self, "exact_resume"),
            PredictionWriter: not self.returns_predictions,
            FolderClaims: True,
        }
        for kind, makes_sense in wanted.items():
            if makes_sense and not any(isinstance(callback, kind) for callback in callbacks):
                callbacks.insert(0, kind())
        Stopping.of(trainer)
        (self._claims,) = (callback for callback in callbacks if isinstance(callback, FolderClaims))
        self._claims.claim_logs(trainer)
        return trainer

    @property
    @override
    def returns_predictions(self) -> bool:
        return not (isinstance(self.model, TransformerTask) and isinstance(self.datamodule, TokenizedDataModule))

    # ------------------------------------------------------------ the command
    def fit(self, **kwargs: Any) -> None:
        """Fit and print a summary; LightningCLI calls it instead of the Trainer's `fit`.

        Raises:
            FloatingPointError: If weights or validation loss are not finite at the end.
        """
        fit_and_summarize(self.trainer, **kwargs)
