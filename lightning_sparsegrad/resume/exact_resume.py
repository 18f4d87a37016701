"""Resuming equals never having stopped, bit for bit."""

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

    The command line has it by default (`--exact_resume=false` leaves it out). Weights, optimizer, schedules, masks,
    logged metrics and the order of the data go on where they stopped, within an epoch too, on one device and on
    several. For that it puts into each checkpoint, for each process, what Lightning does not:

    - the random states of Python, NumPy, torch and the process's accelerator;
    - where the training data stands: with which random states the pass over a loader began, and how many of its batches
      were used. A resumed run begins the pass alike and passes over these batches, unloaded where a map-style dataset
      is read in the main process. Loaders need not be special; one with a `state_dict` of its own is used through it;
    - what the epoch has seen: the running means of `self.log(..., on_epoch=True)` and the states of torchmetrics;
    - what hooks switch where an epoch starts: `accumulate_grad_batches`, which parameters are frozen, which modules
      evaluate.

    **When checkpoints are written.** One that is asked for during the fit waits for the next border: the optimizer step
    of the accumulation window is done, and what follows from it (all hooks, a validation, schedulers; at the end of an
    epoch, its logs), and the next batch is not loaded yet. The file is named when it is asked for, and older ones are
    removed after it is written.

    **SIGTERM and Ctrl+C.** The fit ends at the next border; under DDP and its kin all processes do, whichever of them
    the signal came to. A validation is not waited for: it ends before its next batch, the checkpoint is of before it,
    and a resumed fit begins with it. (It is finished where it runs within a window, with other weights than those that
    are trained, as averages that a callback swaps in, or where several processes cannot agree on a batch.) If no
    callback writes a checkpoint then, `stopped-step=<n>.ckpt` is written into the folder of the first
    `ModelCheckpoint`. Before the first step none is written. Then the fit raises Lightning's `SIGTERMException`, with
    the status 143 after SIGTERM, which schedulers send, and 130 after Ctrl+C. A second Ctrl+C ends it at once, as an
    exception does. A handler for Ctrl+C that the program has set stays in place of this one.

    **Where there is no border any more,** after an exception or where a limit of time ends the training inside a
    window, what is asked for is written all the same, and a warning says that it is not exact. It holds
    `lightning_sparsegrad_inexact`, and a resume from it says so and goes on after the last finished optimizer step: the
    batches of the window that was not finished are used again, the data goes on in its order, random draws are others.
    After an exception in one of several processes, process 0 writes what it holds, without the states of the others: a
    resume begins the data of the epoch anew. What is sharded over processes (FSDP2, ZeRO) is not written then.

    **How.** Beside its place, then moved there in one step, unless a `CheckpointIO` of your own is in use: see
    `AtomicCheckpointIO`. All of it loads with `weights_only=True`.

    **What may change on a resume.** Optimizers and schedulers: what they are made with otherwise than in the run before
    takes effect, and one line says so; an optimizer of another class starts without a state. The arguments of callbacks
    that Lightning would restore, as the patience of `EarlyStopping`. The number of processes at the end of an epoch:
    random states then start anew, with a warning. Within an epoch it is an error. A checkpoint written without this
    callback is gone on from as Lightning does, with a warning. More epochs: what follows the length of the training
    follows the new one. The amount of data, the size of its batches and the seed of its sampler at the end of an epoch,
    within one they are an error; so are, anywhere, other generators of the training data. What is frozen is as it was
    saved. A run that was stopped early trains on, as in Lightning.

    **It cannot know**

    - what an iterable dataset, or a sampler while it is read, draws from the global random state in the main process,
      and what workers that outlive an epoch (`persistent_workers`) drew in an earlier one;
    - a state that a dataset or a sampler keeps beside generators, as a counter of epochs: give it a `state_dict` and a
      `load_state_dict`; and numbers that a metric keeps beside its state;
    - what else hooks at the start of an epoch set, within that epoch: the learning rates of a
      `StochasticWeightAveraging` until they are annealed among it;
    - where a `CombinedLoader` of loaders without a length stands in the modes `max_size` and `max_size_cycle`;
    - accumulation under manual optimization without a transform of this library.

    A `training_step` that takes `dataloader_iter` is refused. SLURM's automatic requeue comes before the waiting
    checkpoint is written: have one every n steps, or `plugins=[SLURMEnvironment(auto_requeue=False)]`. Loggers are told
    of a checkpoint when it is asked for. The folder of a sharded checkpoint (`ModelParallelStrategy`) is written in
    place, by Lightning; `save_distributed_checkpoint=False` writes one file. Under FSDP2, torch cannot restore an
    optimizer in which some parameters have no state yet, so strategies that drop whole tensors (`HeadOnly`,
    `GradualUnfreezing`, `LayerGradDrop`) may not be resumable there.

    Raises:
        ConfigurationError: At the start of a fit, if the training loads its batches itself; on a resume, if its data
            has other loaders or generators; within an epoch, if the number of processes or the amount of data is
            another one or the position of a loader is not known.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(accelerator="cpu", callbacks=[ExactResume()], logger=False, enable_checkpointing=False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._running = False
        self._begins_epoch = False  # where the checkpoint was written
        self._resumed: dict[str, Any] | None = None  # this process's part of the checkpoint that a fit goes on from
        self._watched: Iterator[Any] | None = None
        self._fetched = 0  # batches of the last epoch of a fit that has ended
        self._stopping = Stopping()
        self._pause: Pause | None = None  # where the fit stood before the validation at hand
        self._is_paused = False  # within it, by a signal
        self._meeting = Meeting(1)
        self._steps = -1  # of the fit
        self._accumulate = 1  # as the Trainer was made; callbacks change it in an epoch

    # ------------------------------------------------------------ when checkpoints are written
    @override
    def must_wait(self, trainer: Trainer) -> bool:
        return self._running or self.inside_window(trainer)

    def _watch(self, trainer: Trainer, iterator: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches; before one is loaded, everything about the one before it is done."""
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
        pass  # a validation may follow, and the module's own hook

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        clear_restarting(trainer)
        if is_cut_short(trainer) and not self.inside_window(trainer):
            self.write()  # as of the last batch, before hooks close an epoch that a resumed run goes on with

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._running, self._fetched = False, fetcher_of(trainer).fetched  # which goes with the fit
        super().on_train_end(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # others come inside a batch, or in the middle of what follows it
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
        # the first, so that what it writes or restores in a hook is of before or after that hook for all others
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
            self._go_on(trainer, self._resumed)
            if self._resumed.get("validates"):
                validate_first(trainer, partial(self._resume_validation, trainer, self._resumed), steps=self._steps)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._track(trainer)
        if self._resumed is not None:
            self._go_on(trainer, self._resumed)
            self._set_states(trainer, self._resumed)
            self._resumed = None
        if not self.inside_window(trainer):
            self.write()  # of the epoch before
        self._stopping.agree(trainer)
        self._stopping.stop_if_requested(trainer)

    # ------------------------------------------------------------ a validation that is cut short
    def _begin_validation(self, trainer: Trainer) -> None:
        # a run that is to stop early does not know of it when it is resumed
        can_pause = not (self.suspended or trainer.should_stop or self.inside_window(trainer))
        self._pause = Pause(trainer, self._state(trainer)) if can_pause else None
        self._meeting = Meeting(trainer.world_size)

    @override
    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self._pause is None or trainer.sanity_checking or not self._meeting.is_requested(self._stopping):
            return
        if not self._pause.has_same_weights(trainer) or self._meeting.is_given_up:
            self._pause = None  # it is finished
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

    def _go_on(self, trainer: Trainer, state: dict[str, Any]) -> None:
        loaders = training_loaders(trainer) if state["loaders"] else []  # else from before there were any
        if len(loaders) != (before := len(state["loaders"])):
            raise ConfigurationError(
                f"The training should read {before} loader{'s' * (before != 1)}, as the run it goes on from. "
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
                    f"go on within an epoch. Found `{type(loader).__name__}`."
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
            trainer.fit_loop.epoch_loop.val_loop.setup_data()  # else the first validation would do it, and begin anew
        set_counters(trainer, state["counters"])
        set_switches(trainer, state["switches"], within_epoch=state["within_epoch"], configured=self._accumulate)
        set_metric_states(trainer, state["metrics"], within_epoch=state["within_epoch"])
        for loader, sources in zip(validation_loaders(trainer), state["validation"], strict=False):
            try:
                set_source_states(loader, sources)
            except ConfigurationError as changed:  # a validation may change
                rank_zero_warn(f"The validation's data begins anew. {changed}")
        set_random_states(state["random"], trainer.strategy.root_device)

    # ------------------------------------------------------------ checkpoints
    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        pause = self._pause if self._is_paused else None
        mine = self._state(trainer) if pause is None else pause.state
        if not is_alone(trainer):  # else the states of the other processes are not known
            checkpoint[EXACT_RESUME_KEY] = {"processes": _gathered(trainer, mine)}
        Hyperparameters.of(trainer).save(checkpoint)
        progress = checkpoint["loops"]["fit_loop"]
        if any(isinstance(loader, TrackedLoader) for loader in training_loaders(trainer)):
            progress["state_dict"].pop("combined_loader", None)  # of one process, and our loaders'
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if pause is not None:
            pause.put_into(checkpoint)
        elif not (self._inexact and is_within_epoch(trainer)):
            rewind(progress, within_epoch=mine["within_epoch"])

    def _state(self, trainer: Trainer) -> dict[str, Any]:
        within_epoch = self.goes_on_within_epoch(trainer)
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
        if not self.goes_on_within_epoch(trainer):
            if isinstance(loader, TrackedLoader):
                return loader.rest()
            return loader.state_dict() if isinstance(loader, Stateful) else None
        # without a length, Lightning loads a batch ahead to know which is the last
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
        self.tell_of(checkpoint, trainer)
        Hyperparameters.of(trainer).load(trainer, checkpoint)
        if EXACT_RESUME_KEY not in checkpoint:
            if INEXACT_KEY in checkpoint:  # it has been told: one of several processes wrote it alone
                return
            rank_zero_warn(
                f"`{trainer.ckpt_path}` was written without `ExactResume`: the resumed run has other random states "
                f"than an uninterrupted one, and within an epoch other data."
            )
            return
        processes = checkpoint[EXACT_RESUME_KEY]["processes"]
        self._begins_epoch = not processes[0]["within_epoch"]
        if len(processes) == trainer.world_size:
            self._resumed = processes[trainer.global_rank]
            if self._resumed.get("validates"):  # not in checkpoints of 0.1
                self._steps = trainer.max_steps
                allow_to_begin(trainer)
            checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)  # of one process
            return
        if not self._begins_epoch:
            raise ConfigurationError(
                f"Parameter `devices` times `num_nodes` of the Trainer should be {len(processes)} to go on within an "
                f"epoch: that many processes shared its data. Found {trainer.world_size}."
            )
        rank_zero_warn(
            f"`{trainer.ckpt_path}` was written by {len(processes)} processes, and {trainer.world_size} go on: their "
            f"random states start anew."
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
