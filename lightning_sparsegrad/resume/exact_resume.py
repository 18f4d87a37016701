"""Exact resume: a resumed run equals an uninterrupted one, bit for bit."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.loops._callbacks import put_first
from lightning_sparsegrad.loops._twins import require_our_trainer
from lightning_sparsegrad.resume._alone import is_alone
from lightning_sparsegrad.resume._atomic import AtomicCheckpointIO
from lightning_sparsegrad.resume._counters import counters, set_counters
from lightning_sparsegrad.resume._hyperparameters import Hyperparameters
from lightning_sparsegrad.resume._lightning import (
    begin_pass_itself,
    clear_restarting,
    fetcher_of,
    loads_batches_itself,
    set_training_loaders,
    training_loaders,
    validation_loaders,
)
from lightning_sparsegrad.resume._lightning_methods import release_fit
from lightning_sparsegrad.resume._loader_states import set_source_states, source_states
from lightning_sparsegrad.resume._loaders import Stateful, TrackedLoader, can_be_read_again, set_epoch
from lightning_sparsegrad.resume._logged import metric_states, set_metric_states
from lightning_sparsegrad.resume._meeting import Meeting
from lightning_sparsegrad.resume._pausing import Pause, allow_to_begin, validate_first, watch_validations
from lightning_sparsegrad.resume._progress import begin_epoch, is_cut_short, is_within_epoch, rewind
from lightning_sparsegrad.resume._randomness import random_states, set_random_states
from lightning_sparsegrad.resume._searches import Searches
from lightning_sparsegrad.resume._stopping import Stopping
from lightning_sparsegrad.resume._switches import set_switches, switches
from lightning_sparsegrad.resume._waiting import INEXACT_KEY, WaitingCheckpoints

EXACT_RESUME_KEY = "exact_resume"


class ExactResume(WaitingCheckpoints):
    """Resume a fit from any of its checkpoints as if it had never stopped, bit for bit.

    One callback is all it takes::

        trainer = Trainer(callbacks=[ExactResume(), ModelCheckpoint(every_n_train_steps=100)])
        trainer.fit(module, datamodule=data, ckpt_path="last.ckpt")

    The command line has it by default (`--exact_resume=false` turns it off). Weights, optimizer, schedules, masks,
    logged metrics and the order of the data continue where they stopped, also within an epoch, on one device or
    several. For this it adds to each checkpoint, for each process, what Lightning does not store:

    - the random states of Python, NumPy, torch and the process's accelerator;
    - the position in the training data: the random states with which the pass over a loader began, and the number of
      batches used. A resumed run begins the pass with the same states and skips these batches, without loading them if
      a map-style dataset is read in the main process. Loaders need not be special; a loader with its own `state_dict`
      is restored by it;
    - the metrics of the epoch so far: the running means of `self.log(..., on_epoch=True)` and the states of
      torchmetrics;
    - the settings that hooks change at the start of an epoch: `accumulate_grad_batches`, frozen parameters, modules in
      eval mode.

    **When checkpoints are written.** A checkpoint that is requested during the fit waits for the next boundary: the
    optimizer step of the accumulation window is done, and so is all work that follows it (hooks, a validation,
    schedulers; at the end of an epoch, its logs), and the next batch is not loaded yet. The file gets its name when it
    is requested, and older files are removed after it is written.

    **SIGTERM and Ctrl+C.** The fit ends at the next boundary; under DDP and the like all processes do, whichever of
    them received the signal. A validation is interrupted before its next batch: the checkpoint dates from before it,
    and a resumed fit begins with it. (It is finished if it runs within a window, if it uses other weights than the
    trained ones, such as averages that a callback swaps in, or if several processes cannot agree on a batch.) If no
    callback writes a checkpoint then, `stopped-step=<n>.ckpt` is written into the folder of the first
    `ModelCheckpoint`. Before the first step none is written. The fit then raises Lightning's `SIGTERMException`, with
    status 143 after SIGTERM, which schedulers send, and 130 after Ctrl+C. A second Ctrl+C ends it at once, like an
    exception. A handler for Ctrl+C that the program has set is kept.

    **Without another boundary,** after an exception or if a time limit ends training inside a window, a requested
    checkpoint is written nevertheless, and a warning says that it is not exact. It holds
    `lightning_sparsegrad_inexact`; a run that resumes from it warns as well, and continues after the last finished
    optimizer step: the batches of the unfinished window are used again, the data continue in their order, random draws
    differ. After an exception in one of several processes, process 0 writes its own state without those of the others:
    a resumed run starts the data of the epoch again. Models or optimizers that are sharded over processes (FSDP2, ZeRO)
    are not written then.

    **How.** A checkpoint is written beside its path and then moved there in one step, unless you use your own
    `CheckpointIO`: see `AtomicCheckpointIO`. All of it loads with `weights_only=True`.

    **What may change on a resume.** Optimizers and schedulers: changed arguments take effect, and one line reports
    them; an optimizer of another class starts without a state. The arguments of callbacks that Lightning would restore,
    such as the patience of `EarlyStopping`. The number of processes at the end of an epoch: random states then restart,
    with a warning; within an epoch it is an error. The number of epochs: whatever depends on the length of the training
    uses the new one. The amount of data, the batch size and the seed of the sampler at the end of an epoch; within an
    epoch a change is an error, and other generators of the training data are always an error. Frozen parameters are
    restored as saved. A checkpoint written without this callback resumes as in Lightning, with a warning. A run that
    was stopped early continues to train, as in Lightning.

    **What it cannot restore:**

    - the draws of an iterable dataset, or of a sampler while it is read, from the global random state in the main
      process, and those of workers that outlive an epoch (`persistent_workers`) in an earlier one;
    - a state that a dataset or a sampler keeps outside generators, such as a counter of epochs: give it a `state_dict`
      and a `load_state_dict`; and numbers that a metric keeps outside its state;
    - other settings that hooks change at the start of an epoch, within that epoch, including the learning rates of a
      `StochasticWeightAveraging` until they are annealed;
    - the position of a `CombinedLoader` of loaders without a length, in the modes `max_size` and `max_size_cycle`;
    - accumulation under manual optimization without a transform of this library.

    A `training_step` that takes `dataloader_iter` is refused. SLURM's automatic requeue happens before the waiting
    checkpoint is written: write one every n steps, or use `plugins=[SLURMEnvironment(auto_requeue=False)]`. Loggers are
    notified of a checkpoint when it is requested. The folder of a sharded checkpoint (`ModelParallelStrategy`) is
    written in place, by Lightning; `save_distributed_checkpoint=False` writes one file. Under FSDP2, torch cannot
    restore an optimizer in which some parameters have no state yet, so strategies that drop whole tensors (`HeadOnly`,
    `GradualUnfreezing`, `LayerGradDrop`) may not be resumable there.

    Raises:
        ConfigurationError: At the start of a fit, if `training_step` takes `dataloader_iter`; on a resume, if the data
            have other loaders or generators; within an epoch, if the number of processes or the amount of data differs,
            or the position of a loader is not known.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(accelerator="cpu", callbacks=[ExactResume()], logger=False, enable_checkpointing=False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._running = False
        self._begins_epoch = False  # whether the checkpoint was written between epochs
        self._resumed: dict[str, Any] | None = None  # this process's state in the checkpoint that a fit resumes from
        self._watched: Iterator[Any] | None = None
        self._fetched = 0  # batches fetched in the last epoch of a finished fit
        self._stopping = Stopping()
        self._pause: Pause | None = None  # the state of the fit before the current validation
        self._is_paused = False  # whether a signal interrupted the validation
        self._meeting = Meeting(1)
        self._steps = -1  # `max_steps` of the fit
        self._accumulate = 1  # as the Trainer was constructed; callbacks may change it in an epoch

    # ------------------------------------------------------------ when checkpoints are written
    @override
    def must_wait(self, trainer: Trainer) -> bool:
        return self._running or self.inside_window(trainer)

    def _watch(self, trainer: Trainer, iterator: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches; before one is loaded, all work on the previous one is done."""
        while True:
            if self._resumed is not None:
                self._set_states(trainer, self._resumed)
                self._resumed = None
            if not self.inside_window(trainer):
                self.write()
                self._stopping.stop_if_requested(trainer)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            yield batch

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        fetcher = fetcher_of(trainer)
        if fetcher.iterator is not self._watched:  # an epoch has begun
            fetcher.iterator = self._watched = self._watch(trainer, fetcher.iterator)

    @override
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        pass  # a validation and the module's own hook may follow

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        clear_restarting(trainer)
        if is_cut_short(trainer) and not self.inside_window(trainer):
            self.write()  # with the state of the last batch, before hooks close an epoch that a resumed run continues

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._running, self._fetched = False, fetcher_of(trainer).fetched  # it is removed with the fit
        super().on_train_end(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # other exceptions may occur inside a batch, or in the work that follows it
        self._running &= not isinstance(exception, SIGTERMException)
        release_fit(trainer)
        super().on_exception(trainer, pl_module, exception)

    # ------------------------------------------------------------ the start of a fit
    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._running, self._begins_epoch, self._resumed, self._watched = False, False, None, None
        self._pause, self._is_paused = None, False
        if stage != "fit":
            return
        require_our_trainer(trainer, type(self).__name__)
        self._accumulate = trainer.accumulate_grad_batches
        self.intercept(trainer)
        # first, so that it writes and restores in a hook before all others act
        put_first(trainer, self)
        Searches.of(trainer)
        self._stopping = Stopping.of(trainer)
        self._stopping.is_exact = True
        self._stopping.intercept(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Hyperparameters.of(trainer).fit_start(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._running = True
        self._track(trainer)
        watch_validations(trainer, partial(self._begin_validation, trainer))
        if self._begins_epoch:
            begin_epoch(trainer)
        elif self._resumed is not None:
            self._resume_loaders(trainer, self._resumed)
            if self._resumed.get("validates"):
                validate_first(trainer, partial(self._resume_validation, trainer, self._resumed), steps=self._steps)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._track(trainer)
        if self._resumed is not None:
            self._resume_loaders(trainer, self._resumed)
            self._set_states(trainer, self._resumed)
            self._resumed = None
        if not self.inside_window(trainer):
            self.write()  # requests of the previous epoch
        self._stopping.agree(trainer)
        self._stopping.stop_if_requested(trainer)

    # ------------------------------------------------------------ an interrupted validation
    def _begin_validation(self, trainer: Trainer) -> None:
        # a resumed run does not know that it was about to stop early
        can_pause = not (self.suspended or trainer.should_stop or self.inside_window(trainer))
        self._pause = Pause(trainer, self._state(trainer)) if can_pause else None
        self._meeting = Meeting(trainer.world_size)

    @override
    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self._pause is None or trainer.sanity_checking or not self._meeting.is_requested(self._stopping):
            return
        if not self._pause.has_same_weights(trainer) or self._meeting.is_given_up:
            self._pause = None  # finish the validation
        elif self._meeting.all_stop():
            self._is_paused = True
            self._stopping.stop()

    def _resume_validation(self, trainer: Trainer, state: dict[str, Any]) -> None:
        self._set_states(trainer, state)
        self._resumed = None
        self._begin_validation(trainer)

    # ------------------------------------------------------------ data and states
    def _track(self, trainer: Trainer) -> None:
        if loads_batches_itself(trainer):
            raise ConfigurationError(
                "Parameter `batch` of `training_step` should be a batch for an exact resume. Found `dataloader_iter`."
            )
        loaders = [_tracked(loader) for loader in training_loaders(trainer)]
        if loaders != training_loaders(trainer):
            set_training_loaders(trainer, loaders)
            iter(fetcher_of(trainer))

    def _resume_loaders(self, trainer: Trainer, state: dict[str, Any]) -> None:
        loaders = training_loaders(trainer) if state["loaders"] else []  # none before they are set up
        if len(loaders) != (before := len(state["loaders"])):
            raise ConfigurationError(
                f"The training should read {before} loader{'s' * (before != 1)}, as in the previous run. "
                f"Found {len(loaders)}."
            )
        epoch: Any = trainer.fit_loop.epoch_progress.current
        for loader, position in zip(loaders, state["loaders"], strict=True):
            set_epoch(loader, epoch.processed)
            if position is not None:
                loader.load_state_dict(position)
            elif state["within_epoch"] and state.get("exact", True):
                raise ConfigurationError(
                    f"A training loader should be a DataLoader, have a length, or have a `state_dict` and a length, to "
                    f"resume within an epoch. Found `{type(loader).__name__}`."
                )
        if trainer.current_epoch > 0 and not state["within_epoch"]:
            begin_pass_itself(trainer)
            return
        fetcher = fetcher_of(trainer)
        iter(fetcher)
        if state["within_epoch"]:
            fetcher.iterator = self._watched = self._watch(trainer, fetcher.iterator)

    def _set_states(self, trainer: Trainer, state: dict[str, Any]) -> None:
        if state["validation"]:
            trainer.fit_loop.epoch_loop.val_loop.setup_data()  # otherwise the first validation would do it and restart
        set_counters(trainer, state["counters"])
        set_switches(trainer, state["switches"], within_epoch=state["within_epoch"], configured=self._accumulate)
        set_metric_states(trainer, state["metrics"], within_epoch=state["within_epoch"])
        for loader, sources in zip(validation_loaders(trainer), state["validation"], strict=False):
            try:
                set_source_states(loader, sources)
            except ConfigurationError as changed:  # the validation data may change
                rank_zero_warn(f"The validation data start again. {changed}")
        set_random_states(state["random"], trainer.strategy.root_device)

    # ------------------------------------------------------------ checkpoints
    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        pause = self._pause if self._is_paused else None
        mine = self._state(trainer) if pause is None else pause.state
        if not is_alone(trainer):  # otherwise the states of the other processes are not known
            checkpoint[EXACT_RESUME_KEY] = {"processes": _gathered(trainer, mine)}
        Hyperparameters.of(trainer).save(checkpoint)
        progress = checkpoint["loops"]["fit_loop"]
        if any(isinstance(loader, TrackedLoader) for loader in training_loaders(trainer)):
            progress["state_dict"].pop("combined_loader", None)  # it holds one process's state of our loaders
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if pause is not None:
            pause.put_into(checkpoint)
        elif not (self._inexact and is_within_epoch(trainer)):
            rewind(progress, within_epoch=mine["within_epoch"])

    def _state(self, trainer: Trainer) -> dict[str, Any]:
        within_epoch = self.resumes_within_epoch(trainer)
        return {
            "exact": not self._inexact,
            "within_epoch": within_epoch,
            "random": random_states(trainer.strategy.root_device),
            "metrics": metric_states(trainer, ended=is_within_epoch(trainer) and not within_epoch),
            "counters": counters(trainer),
            "switches": switches(trainer, configured=self._accumulate),
            "loaders": [self._position(trainer, loader) for loader in training_loaders(trainer)],
            "validation": [source_states(loader) for loader in validation_loaders(trainer)],
        }

    def _position(self, trainer: Trainer, loader: Any) -> Any:
        if not self.resumes_within_epoch(trainer):
            if isinstance(loader, TrackedLoader):
                return loader.rest()
            return loader.state_dict() if isinstance(loader, Stateful) else None
        # without a length, Lightning loads one batch ahead to recognise the last
        used = (
            self.finished_batches(trainer)
            if self._inexact
            else trainer.fit_loop.epoch_loop.batch_progress.current.ready
        )
        fetcher = fetcher_of(trainer)
        ahead = (self._fetched if fetcher is None else fetcher.fetched) - used
        if isinstance(loader, TrackedLoader):
            return loader.position(ahead=ahead)
        return loader.state_dict() if isinstance(loader, Stateful) and (self._inexact or not ahead) else None

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self.warn_if_inexact(checkpoint, trainer)
        Hyperparameters.of(trainer).load(trainer, checkpoint)
        if EXACT_RESUME_KEY not in checkpoint:
            if INEXACT_KEY in checkpoint:  # already warned: one of several processes wrote it alone
                return
            rank_zero_warn(
                f"`{trainer.ckpt_path}` was written without `ExactResume`: the resumed run has other random states "
                f"than an uninterrupted one and, within an epoch, other data."
            )
            return
        processes = checkpoint[EXACT_RESUME_KEY]["processes"]
        self._begins_epoch = not processes[0]["within_epoch"]
        if len(processes) == trainer.world_size:
            self._resumed = processes[trainer.global_rank]
            if self._resumed.get("validates"):  # not in checkpoints of 0.1
                self._steps = trainer.max_steps
                allow_to_begin(trainer)
            checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)  # one process's state
            return
        if not self._begins_epoch:
            raise ConfigurationError(
                f"Parameter `devices` times `num_nodes` of the Trainer should be {len(processes)} to resume within an "
                f"epoch: that many processes shared its data. Found {trainer.world_size}."
            )
        rank_zero_warn(
            f"`{trainer.ckpt_path}` was written by {len(processes)} processes, and {trainer.world_size} resume: their "
            f"random states restart."
        )


def _tracked(loader: Any) -> Any:
    if isinstance(loader, Stateful) or not can_be_read_again(loader):
        return loader
    return TrackedLoader(loader)


def _gathered(trainer: Trainer, mine: dict[str, Any]) -> list[Any]:
    if trainer.world_size == 1:
        return [mine]
    processes: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(processes, mine)
    return processes
