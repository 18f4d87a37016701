"""The command line: `sparsegrad fit --config task.yaml --config strategy.yaml --model.gradient_transform.rate=0.4`."""

import warnings
from copy import deepcopy
from time import monotonic
from traceback import walk_tb
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    _get_module_type,
)

import lightning_sparsegrad.data
import lightning_sparsegrad.modules._exports
import lightning_sparsegrad.transforms  # noqa: F401  # what is imported can be named without its module
from lightning_sparsegrad.callbacks import ExactResume, PredictionWriter, ProgressLines, ResultsTable
from lightning_sparsegrad.callbacks._folder_claims import FolderClaims
from lightning_sparsegrad.cli._checkpoint_defaults import (
    Given,
    require_same_seed,
    set_defaults,
    stored_defaults,
    where_paths_start,
)
from lightning_sparsegrad.cli._diagnosis import Fault
from lightning_sparsegrad.cli._fit_summary import print_fit_summary
from lightning_sparsegrad.cli._instantiators import (
    LINKED,
    DataInstantiator,
    ModelInstantiator,
    about_missing,
    about_moved,
    ask_for_regression,
    replace_origin,
)
from lightning_sparsegrad.cli._run_config import StoreConfigCallback
from lightning_sparsegrad.cli._trainer_checks import check_trainer, require_seed
from lightning_sparsegrad.cli.parser import SparseGradArgumentParser
from lightning_sparsegrad.data import TokenizedDataModule
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.files._checksums import IntactCheckpoint
from lightning_sparsegrad.loops._callbacks import callbacks_of
from lightning_sparsegrad.loops._divergence import DivergenceWarning, divergence_of
from lightning_sparsegrad.loops._monitored import MonitorCheck, is_about_monitor
from lightning_sparsegrad.modules import TransformerTask
from lightning_sparsegrad.resume._checkpoints import StoredRun, about_checkpoint, is_about_checkpoint
from lightning_sparsegrad.resume._signals import SIGNALS, end, status_of
from lightning_sparsegrad.resume._stopping import Stopping, about_end, end_launched, ended_by_signal

# what a class raises about its arguments; any other error may be a bug, and keeps its traceback
_ABOUT_ARGUMENTS = (ValueError, TypeError, OSError, ImportError, MisconfigurationException)


class SparseGradCLI(LightningCLI):
    """LightningCLI with `SparseGradArgumentParser`, for any LightningModule and any LightningDataModule.

    `fit`, `validate`, `test` and `predict` run what `--model` and `--data` name. A model's `num_labels` is that of the
    data, where both exist. After a fit, a table tells how it went. `ExactResume` is among the callbacks of a fit unless
    `--exact_resume=false` says otherwise, `ResultsTable` shows and writes what `validate` and `test` found, where
    `--verbose` (of Lightning, a row for every number) is off by default, and `PredictionWriter` writes what `predict`
    finds in data of this library.

    **With `--ckpt_path`**, the arguments of the run that wrote the checkpoint are the defaults, and what files and
    flags say wins. `fit --ckpt_path last.ckpt` resumes with all of them, seed and callbacks included, and writes into a
    new folder beside that of the run before. Optimizer and scheduler follow what is said anew, see `ExactResume`; a
    seed that would have no effect is refused. The other commands take model, data and seed, and of the Trainer's
    arguments the precision alone: machine, logger and callbacks were the fit's.

    **SIGTERM and Ctrl+C** end a command with the statuses 143 and 130, and one line on stderr. A fit ends where nothing
    is lost, see `ExactResume`, and the line names the checkpoint to resume from. A second Ctrl+C ends it at once.

    **Nothing is written over.** Config, tables and predictions go into the folder of the run: that of its logger, else
    a new `lightning_logs/version_<n>`. A file that was there before stays, and the new one has a number.

    Note:
        `SECURITY.md` says what a config or a checkpoint of a stranger can do. In short: objects of the kind that a
        place asks for are made, and their modules imported; nothing else is called. Read both before you run them.

    Args:
        model_class: The only model, or with `subclass_mode_model` the base of those that may be named; by default any.
        datamodule_class: The same for the data.
        **kwargs: What LightningCLI takes. By default optimizers are arguments of the model (`OptimizerCallable`) rather
            than of the command line.

    Raises:
        ConfigurationError: If a class refuses its arguments.
        FloatingPointError: If weights or validation loss are not finite at the end of a fit; what it wrote stays.
        SystemExit: With status 143 after SIGTERM while a Trainer runs, and 130 after Ctrl+C.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import DemoModel
        >>> cli = SparseGradCLI(DemoModel, run=False, args=["--model.out_dim=3", "--seed_everything=0"])
        >>> cli.model.l1.out_features
        3
    """

    _subcommand_parsers: dict[str, LightningArgumentParser] = {}  # noqa: RUF012  # LightningCLI's; with run=False, none
    _claims: FolderClaims | None = None
    _stored: StoredRun | None = None  # the run that wrote the checkpoint, if one is named
    _given: Given | None = None

    def __init__(
        self,
        model_class: Any = None,
        datamodule_class: Any = None,
        **kwargs: Any,
    ) -> None:
        runs = kwargs.get("run", True)
        defaults = {
            "parser_class": SparseGradArgumentParser,
            "save_config_callback": StoreConfigCallback,
            "auto_configure_optimizers": False,
        }
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
            end(ending, self._about_end())
        finally:
            if runs and self._claims is not None:
                self._claims.release()

    def _about_end(self) -> str:
        """Return what to say when a signal has ended the command."""
        command = self._given.subcommand if self._given else None
        if command != "fit":
            return f"stopped before `{command}` was done" if command else "stopped"
        checkpoint = self._given.checkpoint if self._given else None
        return about_end(getattr(self, "trainer", None), checkpoint)

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        for name in {"validate", "test"} & self._subcommand_parsers.keys():
            self._subcommand_parsers[name].set_defaults({"verbose": False})  # `ResultsTable` shows the same

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_default_arguments_to_parser(parser)
        parser.add_argument(
            "--exact_resume", type=bool, default=True, help="Whether checkpoints hold what an exact resume takes."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if self.subclass_mode_model and self.subclass_mode_data:
            # jsonargparse passes over a link if the data has no such attribute or the model no such argument
            for name in LINKED:
                parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def _add_instantiators(self) -> None:
        super()._add_instantiators()
        self.parser.add_instantiator(
            ModelInstantiator(self, "model"), _get_module_type(self._model_class), subclasses=self.subclass_mode_model
        )
        # a fit compares the classes of its data with those of the checkpoint
        names = self._stored.names if self._stored and self.subcommand != "fit" else None
        self.parser.add_instantiator(
            DataInstantiator(self, "data", names),
            _get_module_type(self._datamodule_class),
            subclasses=self.subclass_mode_data,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the arguments, with those of the run that wrote the checkpoint they name as defaults."""
        self._given = given = Given(args, self._subcommand_parsers)
        if given.subcommand:
            self._set_stored_defaults(self._subcommand_parsers[given.subcommand], given)
        # jsonargparse changes a given dict in place
        is_dict = isinstance(args, dict | Namespace)
        try:
            self.config = parser.parse_object(deepcopy(args)) if is_dict else parser.parse_args(args)  # type: ignore[arg-type]
        except UnicodeDecodeError as error:  # of a file that a file names
            raise ConfigurationError(f"Config files should be text in UTF-8. Found: {error}.") from error
        except (
            ValueError
        ) as error:  # jsonargparse lets a few through: a NUL where a path may stand, a name of no module
            raise ConfigurationError(str(error)) from error
        config = self.config[given.subcommand] if given.subcommand else self.config
        require_seed(config)
        ask_for_regression(config)
        if self._stored and given.subcommand:
            replace_origin(config, self._stored.config)
            if given.subcommand == "fit":
                require_same_seed(config, self._stored)

    def _parse_ckpt_path(self) -> None:
        # Lightning lets what a checkpoint stores override what the user says: Lightning#20801
        pass

    def _set_stored_defaults(self, parser: LightningArgumentParser, given: Given) -> None:
        try:
            self._stored = stored_defaults(given)
        except FileNotFoundError as error:
            parser.error(f"File does not exist: '{error}'")
        if self._stored:
            set_defaults(parser, given, self._stored)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return LightningCLI's, without `weights_only`: in a file it would let a checkpoint run code."""
        return {name: {*left_out, "weights_only"} for name, left_out in LightningCLI.subcommands().items()}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        # by default Lightning runs the code in a checkpoint that comes from http, and keeps all predictions to return
        given = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        if given.get("return_predictions", True) is None:
            given["return_predictions"] = not self._is_of_this_library
        return given

    def _run_subcommand(self, subcommand: str) -> None:
        """Run; a `ConfigurationError` if the checkpoint cannot be read, or is of another model."""
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            if isinstance(error, ConfigurationError):
                raise
            if is_about_checkpoint(error):
                named = self._get(self.config, "ckpt_path")
                raise ConfigurationError(about_checkpoint(named, error)) from error
            is_about_search = isinstance(error, AttributeError) and _is_raised_by_lightning(
                error, part="pytorch.tuner."
            )
            is_about_arguments = isinstance(error, _ABOUT_ARGUMENTS) and _is_raised_by_lightning(error)
            if is_about_search or is_about_arguments or is_about_monitor(error):
                raise ConfigurationError(str(error)) from error
            raise

    def instantiate_classes(self) -> None:
        """Instantiate model, data and trainer; a `ConfigurationError` if one of them refuses its arguments."""
        try:
            super().instantiate_classes()
        except Exception as error:
            # jsonargparse wraps whatever a constructor raises: the cause tells whether it was about the arguments
            if isinstance(error, ConfigurationError) or not isinstance(_root(error), _ABOUT_ARGUMENTS):
                raise
            text = Fault.find(str(error)).text
            more = about_missing(self) + about_moved(text, self._get(self.config, "ckpt_path"))
            raise ConfigurationError(text + more) from error
        check_trainer(self.trainer, fits=self.subcommand == "fit")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Instantiate the Trainer, with `ResultsTable`, `ExactResume` and `PredictionWriter` where they make sense."""
        trainer = super().instantiate_trainer(**kwargs)
        callbacks = callbacks_of(trainer)
        wanted: dict[type[Callback], bool] = {
            MonitorCheck: True,
            IntactCheckpoint: True,
            ResultsTable: True,
            ProgressLines: True,
            ExactResume: self._get(self.config_init, "exact_resume"),
            PredictionWriter: self._is_of_this_library,
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
    def _is_of_this_library(self) -> bool:
        """Whether model and data are, so that it is known what a prediction means."""
        return isinstance(self.model, TransformerTask) and isinstance(self.datamodule, TokenizedDataModule)

    def fit(self, **kwargs: Any) -> None:
        """Fit, and tell how it went; LightningCLI calls it in place of the Trainer's.

        Raises:
            FloatingPointError: If weights or validation loss are not finite at the end.
        """
        start = monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # the error says the same
            self.trainer.fit(**kwargs)
        fault = divergence_of(self.trainer)
        if self.trainer.is_global_zero:
            print_fit_summary(self.trainer, seconds=monotonic() - start, diverged=fault is not None)
        if fault is not None:
            raise FloatingPointError(fault)


def _is_raised_by_lightning(error: BaseException, *, part: str = "") -> bool:
    """Whether Lightning itself, or a part of it, raises an error, rather than what it calls."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(f"lightning.{part}")


def _root(error: BaseException) -> BaseException:
    """Return what first went wrong; what the library has already put into words stands for what lies behind it."""
    while error.__cause__ is not None and not isinstance(error, ConfigurationError):
        error = error.__cause__
    return error
