"""Every private name of another library that the package uses, in the modules `_<library>.py` alone.

A row says what breaks without the name and who may end the need for it. `test_private_names` holds the table and the
package together. Methods that are replaced on an instance are listed as well, under their public names.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from types import SimpleNamespace
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from torchmetrics import MeanMetric

LIBRARIES = ("lightning", "torch", "torchmetrics", "datasets", "jsonargparse", "transformers", "peft", "accelerate")
NONE = "no upstream issue"
RESUME = "https://github.com/Lightning-AI/pytorch-lightning/issues/18780"  # and 19764
FOREACH = "https://github.com/pytorch/pytorch/pull/193607"
COMPILED = "https://github.com/pytorch/pytorch/issues/101107"
LOADERS = "https://github.com/pytorch/pytorch/issues/36650"
SIGTERM = "https://github.com/Lightning-AI/pytorch-lightning/issues/20806"
COUNTED = "https://github.com/Lightning-AI/pytorch-lightning/issues/20550"
VERSIONS = "https://github.com/Lightning-AI/pytorch-lightning/issues/11418"
HPARAMS = "https://github.com/Lightning-AI/pytorch-lightning/issues/20801"
REPLACING = "https://github.com/Lightning-AI/pytorch-lightning/issues/18072"
PARTIAL = "https://github.com/mauvilsa/jsonargparse/issues/755"
OFFLINE = "https://github.com/huggingface/datasets/issues/6088"


@dataclass(frozen=True)
class Row:
    """A private name.

    Args:
        library: Whose it is.
        name: The name.
        of: Returns what has it, given a Trainer that is at the end of a training batch.
        breaks: What does not work without it.
        upstream: The issue or pull request that may end the need for it.
        takes: The parameters that the package calls it with, or replaces; empty for what is not called.
        is_replaced: Whether it is a public method, listed because the package replaces it on an instance.
    """

    library: str
    name: str
    of: Callable[[Trainer], Any]
    breaks: str
    upstream: str = NONE
    takes: str = ""
    is_replaced: bool = False

    def fault(self, trainer: Trainer) -> str | None:
        """Return what is wrong with the name in the installed version."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is deprecated is still there
                owner = self.of(trainer)
        except Exception as error:  # whatever the version at hand raises
            return repr(error)
        if not hasattr(owner, self.name):
            return "is gone"
        if self.takes:
            member = getattr(owner, self.name)
            taken = " ".join(signature(member).parameters) if callable(member) else "nothing"
            return None if taken == self.takes else f"takes {taken}"
        return None


def fit_loop(trainer: Trainer) -> Any:
    return trainer.fit_loop


def epoch_loop(trainer: Trainer) -> Any:
    return trainer.fit_loop.epoch_loop


def validation(trainer: Trainer) -> Any:
    return trainer.fit_loop.epoch_loop.val_loop


def logged(trainer: Trainer) -> Any:
    return vars(trainer)["_logger_connector"]


def checkpoint(trainer: Trainer) -> Any:
    return next(each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint))


def strategy(trainer: Trainer) -> Any:
    return trainer.strategy


def itself(trainer: Trainer) -> Any:
    return trainer


def module(name: str) -> Callable[[Trainer], Any]:
    return lambda _: import_module(name)


def always(make: Callable[[], Any]) -> Callable[[Trainer], Any]:
    return lambda _: make()


def keys(state: Any) -> SimpleNamespace:
    return SimpleNamespace(**dict.fromkeys(state))


def loader() -> DataLoader[Any]:
    return DataLoader([1, 2, 3])  # type: ignore[arg-type]  # a list is a dataset to torch


def scheduler() -> Any:
    return torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))


def compiled() -> Any:
    return torch.compile(nn.Linear(1, 1))


def wrapped_by(name: str, constant: str) -> Callable[[Trainer], Any]:
    return lambda _: keys([getattr(import_module(name), constant)])


def sampler(_: Trainer) -> Any:
    wrapper: Any = import_module("lightning.fabric.utilities.distributed")
    return vars(wrapper)["_DatasetSamplerWrapper"](SequentialSampler([1, 2]))


def hyperparameters(_: Trainer) -> Any:
    reads = vars(import_module("lightning.pytorch.cli").LightningCLI)["_parse_ckpt_path"]
    return keys(each for each in reads.__code__.co_consts if isinstance(each, str))


def version_of(logger: Any) -> Any:
    return logger.version.fget.__code__.co_names  # to make one needs tensorboard


def synced(_: Trainer) -> Any:
    results = import_module("lightning.pytorch.trainer.connectors.logger_connector.result")
    return keys(signature(vars(results)["_Sync"]).parameters)


def signals(trainer: Trainer) -> Any:
    return vars(trainer)["_signal_connector"]


RESULT = "lightning.pytorch.trainer.connectors.logger_connector.result"
SCRIPTS = "lightning.fabric.strategies.launchers.subprocess_script"
DATA = "torch.utils.data.dataloader"


def of_torch() -> Iterator[Row]:
    slow = "norms and masks of many tensors take a launch each"
    yield Row("torch", "_foreach_norm", always(lambda: torch), slow, FOREACH)
    yield Row("torch", "_foreach_mul_", always(lambda: torch), slow, FOREACH)
    yield Row("torch", "_foreach_copy_", always(lambda: torch), slow, FOREACH)
    seen = "a gradient that changed after the transform is not noticed"
    yield Row("torch", "_version", always(lambda: torch.zeros(1)), seen)
    names = "patterns for parameters mean something else on a wrapped model"
    yield Row("torch", "_orig_mod", always(compiled), names, COMPILED)
    fsdp = wrapped_by("torch.distributed.fsdp._common_utils", "FSDP_WRAPPED_MODULE")
    yield Row("torch", "_fsdp_wrapped_module", fsdp, names)
    wrapper = "torch.distributed.algorithms._checkpoint.checkpoint_wrapper"
    yield Row("torch", "_checkpoint_wrapped_module", wrapped_by(wrapper, "_CHECKPOINT_WRAPPED_MODULE"), names)
    region = "a compiled region is taken for one that can be left out in parts"
    yield Row("torch", "_compiled_call_impl", always(lambda: nn.Linear(1, 1)), region)
    yield Row("torch", "_torchdynamo_orig_callable", always(lambda: torch.compile(len)), region)
    new = "parameters that are put into a model in training are not noticed"
    yield Row("torch", "_parameters", always(lambda: nn.Linear(1, 1)), new)
    yield Row("torch", "_modules", always(lambda: nn.Linear(1, 1)), new)
    constants = "a compiled program repeats the mask of its first window"
    yield Row("torch", "_disable_dynamo", always(lambda: torch), constants)
    hooks = "the hooks of a wrapper around an optimizer are taken for those of the optimizer"
    yield Row("torch", "_optimizer_step_pre_hooks", always(lambda: torch.optim.SGD([torch.zeros(1)])), hooks)
    skip = "a resume loads all batches that it skips"
    yield Row("torch", "_DatasetKind", module(DATA), skip, LOADERS)
    yield Row("torch", "_SingleProcessDataLoaderIter", module(DATA), skip, LOADERS)
    yield Row("torch", "_dataset_kind", always(lambda: iter(loader())), skip, LOADERS)
    yield Row("torch", "_next_index", always(lambda: iter(loader())), skip, LOADERS)
    yield Row("torch", "_iterator", always(loader), "workers outlive an exception, or a search of the tuner")
    yield Row("torch", "_last_lr", always(scheduler), "a schedule of another length logs the rates of the one before")
    printed = "`--help` and `--print_config` take seconds longer"
    yield Row("torch", "_dynamo", always(lambda: torch), printed)
    store = module("torch.distributed.distributed_c10d")
    yield Row("torch", "_get_default_store", store, "several processes cannot agree to stop within a validation")


def of_loops() -> Iterator[Row]:
    scaled = "gradients that a clip has unscaled are taken for scaled ones"
    yield Row("torch", "_per_optimizer_states", always(lambda: torch.amp.GradScaler("cpu")), scaled)
    wrapper = "a model that was given without its wrapper is taken for one of a single process"
    yield Row("accelerate", "_is_accelerate_prepared", prepared, wrapper)
    skipping = "no work is skipped in several processes"
    yield Row("lightning", "_forward_module", always(set_up), skipping)
    trainer = always(lambda: vars(import_module("transformers.trainer"))["Trainer"])
    breaks = "an exception leaves tensors without `requires_grad`; losses that are summed are not noticed"
    step, run = "self model inputs num_items_in_batch", "self resume_from_checkpoint trial ignore_keys_for_eval"
    yield Row("transformers", "training_step", trainer, breaks, takes=step, is_replaced=True)
    yield Row("transformers", "train", trainer, breaks, takes=run, is_replaced=True)


def set_up() -> Any:
    return Fabric(accelerator="cpu", devices=1).setup(nn.Linear(1, 1))


def prepared(_: Trainer) -> Any:
    model = import_module("accelerate").Accelerator(cpu=True).prepare(nn.Linear(1, 1))
    import_module("accelerate.state").AcceleratorState._reset_state(reset_partial_state=True)
    return model


def of_fits() -> Iterator[Row]:
    part = "a transform sees the gradient of a part of a window"
    yield Row("lightning", "_should_accumulate", fit_loop, part)
    yield Row("lightning", "_skip_backward", fit_loop, "StochasticWeightAveraging moves the averaged weights")
    order = "there is no order of the data to resume"
    yield Row("lightning", "_combined_loader", fit_loop, order, COUNTED)
    yield Row("lightning", "_combined_loader", validation, order, RESUME)
    early = "finders of the tuner search without the transform"
    yield Row("lightning", "fset", always(lambda: LightningModule.trainer), early, takes="self trainer")
    folders = "runs that start at the same time log into one folder"
    yield Row("lightning", "_version", always(lambda: CSVLogger(".")), folders, VERSIONS)
    yield Row("lightning", "_version", always(lambda: keys(version_of(TensorBoardLogger))), folders, VERSIONS)


def of_resume() -> Iterator[Row]:
    for owner, name, breaks in (
        (fit_loop, "_last_train_dl_reload_epoch", "`reload_dataloaders_every_n_epochs` restarts its count"),
        (validation, "_last_val_dl_reload_epoch", "`reload_dataloaders_every_n_epochs` restarts its count"),
        (validation, "_seen_batches_per_dataloader", "validations are logged at other steps"),
        (checkpoint, "_last_global_step_saved", "the checkpoint that a fit resumes from is written again"),
        (checkpoint, "_last_checkpoint_saved", "the checkpoint that a fit resumes from is written again"),
        (checkpoint, "_defer_save_until_validation", "the checkpoint that a fit resumes from is written again"),
        (epoch_loop, "_batches_that_stepped", "loggers continue at another step"),
        (lambda trainer: keys(epoch_loop(trainer).on_save_checkpoint()), "_batches_that_stepped", "as above"),
        (module("lightning.pytorch.loops.loop"), "_Loop", "with `max_steps`, an epoch ends twice"),
        (lambda _: vars(import_module("lightning.pytorch.loops.loop"))["_Loop"].restarting, "fset", "as above"),
        (fit_loop, "_restarting", "a plateau's scheduler is left out at the end of a resumed epoch"),
        (fit_loop, "_resuming_from_checkpoint", "an epoch draws its order before hooks that change it"),
        (fit_loop, "_data_fetcher", "nothing is written between two batches"),
        (module("lightning.pytorch.loops.fetchers"), "_DataLoaderIterDataFetcher", "`dataloader_iter` is not refused"),
        (fit_loop, "_data_source", "the loaders draw other numbers after a search of the tuner"),
        (validation, "_data_source", "the loaders draw other numbers after a search of the tuner"),
        (epoch_loop, "_results", "means over the epoch begin anew"),
        (module(RESULT), "_Metadata", "means over the epoch begin anew"),
        (module(RESULT), "_ResultMetric", "means over the epoch begin anew"),
        (module(RESULT), "_Sync", "means over the epoch begin anew"),
        (synced, "_should", "means over the epoch begin anew"),
        (itself, "_logger_connector", "callbacks see no metric of before the resume"),
        (logged, "_callback_metrics", "callbacks see no metric of before the resume"),
        (logged, "_logged_metrics", "callbacks see no metric of before the resume"),
        (logged, "_progress_bar_metrics", "callbacks see no metric of before the resume"),
        (logged, "_first_loop_iter", "the first batch after a resume resets what the epoch has logged"),
        (itself, "_checkpoint_connector", "a search of the tuner loses what the fit resumes from"),
        (sampler, "_sampler", "of several processes, the state of a sampler is not restored"),
        (hyperparameters, "_class_path", "checkpoints of another LightningCLI do not tell their classes"),
    ):
        yield Row("lightning", name, owner, breaks, RESUME)
    yield Row("lightning", "_should_check_val_fx", epoch_loop, "a validation is not cut short", RESUME, "data_fetcher")
    link = "a link is to a checkpoint that is not written yet"
    yield Row("lightning", "_link_checkpoint", checkpoint, link, takes="trainer filepath linkpath")
    yield Row("lightning", "_signal_connector", itself, "a signal may deadlock processes", SIGTERM)
    yield Row("lightning", "_sigterm_notifier_fn", signals, "a signal may deadlock processes", SIGTERM, "signum _")
    yield Row("lightning", "_broadcast_sigterm_tensor", epoch_loop, "signals to other processes are lost", SIGTERM)
    killed = "a process that a signal has ended takes the others with it"
    yield Row("lightning", "_SubprocessScriptLauncher", module("lightning.pytorch.strategies.launchers"), killed)
    yield Row("lightning", "_ChildProcessObserver", module(SCRIPTS), killed)
    observer = always(lambda: vars(import_module(SCRIPTS))["_ChildProcessObserver"]([], lambda: None))
    yield Row("lightning", "_child_processes", observer, killed)
    count = "a metric warns after a resume, and returns an old value"
    yield Row("torchmetrics", "_update_count", always(MeanMetric), count)
    yield Row("torchmetrics", "_computed", always(MeanMetric), count)
    yield Row("torchmetrics", "_forward_cache", always(MeanMetric), "`on_step=True` shows another value at first")


def of_methods() -> Iterator[Row]:
    whole = "a checkpoint is written within a window"
    for owner, name, takes, breaks in (
        (itself, "save_checkpoint", "filepath weights_only storage_options", whole),
        (strategy, "remove_checkpoint", "filepath", "a checkpoint goes before its successor is written"),
        (fit_loop, "run", "", "a search of the tuner runs without the transform"),
        (always(LearningRateFinder), "lr_find", "trainer pl_module", "a search changes the fit after it"),
        (always(BatchSizeFinder), "scale_batch_size", "trainer pl_module", "a search changes the fit after it"),
        (strategy, "barrier", "args kwargs", "after an exception one process waits for the others"),
        (strategy, "broadcast", "obj src", "after an exception one process waits for the others"),
        (strategy, "reduce", "tensor args kwargs", "after an exception one process waits for the others"),
        (strategy, "reduce_boolean_decision", "decision all", "after an exception one process waits for the others"),
        (strategy, "all_gather", "tensor group sync_grads", "after an exception one process waits for the others"),
    ):
        yield Row("lightning", name, owner, breaks, takes=takes, is_replaced=True)


def of_commands() -> Iterator[Row]:
    cli = always(lambda: import_module("lightning.pytorch.cli").LightningCLI)
    read = "a study cannot read the config of a run"
    yield Row("lightning", "_set_seed", cli, read, takes="self")
    yield Row("lightning", "_run_subcommand", cli, read, takes="self subcommand")
    weights = "a checkpoint runs code, and its arguments override flags"
    yield Row("lightning", "_parse_ckpt_path", cli, weights, HPARAMS, "self")
    yield Row("lightning", "_prepare_subcommand_kwargs", cli, weights, takes="self subcommand")
    labels = "the number of labels is not checked against the data, and is stored where the model has none"
    yield Row("lightning", "_InstantiatorFn", module("lightning.pytorch.cli"), labels, takes="cli key")
    yield Row("lightning", "_get_module_type", module("lightning.pytorch.cli"), labels, takes="value")
    made = always(made_without_running)
    yield Row("lightning", "_model_class", made, labels)
    yield Row("lightning", "_datamodule_class", made, labels)
    yield Row("lightning", "_get", cli, "errors do not tell what may have led to them", takes="self config key default")
    stored = "the arguments of a checkpoint are no defaults"
    yield Row("lightning", "_subcommand_parsers", always(lambda: made_without_running(run=True)), stored)
    helpers = module("lightning.pytorch.utilities.model_helpers")
    called = "`load_from_checkpoint` is not refused on an instance"
    yield Row("lightning", "_restricted_classmethod", helpers, called)


def of_parsers() -> Iterator[Row]:
    parser = always(lambda: import_module("jsonargparse").ArgumentParser())
    merged = "arguments of a class show through another that replaces it"
    yield Row("jsonargparse", "_apply_actions", parser, merged, REPLACING, "cfg parent_key prev_cfg skip_fn")
    takes = "args namespace argcomplete"
    yield Row("jsonargparse", "_parse_known_args_internal", parser, merged, REPLACING, takes)
    yield Row("jsonargparse", "_get_positional_actions", parser, merged, REPLACING)
    yield Row("jsonargparse", "_mutually_exclusive_groups", parser, merged, REPLACING)
    yield Row("jsonargparse", "_subcommands_action", parser, merged, REPLACING)
    for name in ("_skip_validation", "_namespace_as_config"):
        yield Row("jsonargparse", name, taken(name), merged, REPLACING)
    yield Row("jsonargparse", "_actions", parser, "a checkpoint of other options ends in an error of the parser")
    called = "a config has any function called"
    takes = "action value key cfg append"
    yield Row("jsonargparse", "_check_value_key", parser, called, PARTIAL, takes)
    yield Row("jsonargparse", "_typehint", always(typed), called, PARTIAL)
    hints, names = module("jsonargparse._typehints"), module("jsonargparse._util")
    yield Row("jsonargparse", "_typehints", module("jsonargparse"), called, PARTIAL)
    yield Row("jsonargparse", "_util", module("jsonargparse"), called, PARTIAL)
    for name, owner, takes in (
        ("adapt_partial_callable_class", hints, "callable_type subclass_spec"),
        ("accepts_any_value", hints, "typehint"),
        ("get_callable_return_type", hints, "typehint"),
        ("get_subclass_types", hints, "typehint also_lists also_containers callable_return"),
        ("is_protocol", hints, "class_type"),
        ("import_object", names, "name check_path"),
        ("check_import_path", hints, "path"),
        ("check_import_path", names, "path"),
        ("ImportDenied", module("jsonargparse._common"), ""),
    ):
        yield Row("jsonargparse", name, owner, called, PARTIAL, takes)


def taken(name: str) -> Callable[[Trainer], Any]:
    """Return what has a keyword that `parse_args` takes."""

    def parse(_: Trainer) -> Any:
        import_module("jsonargparse").ArgumentParser().parse_args([], **{name: False})
        return keys([name])

    return parse


def typed() -> Any:
    return import_module("jsonargparse").ArgumentParser().add_argument("--x", type=int | None)


def made_without_running(run: bool = False) -> Any:
    """Return a LightningCLI that has been made, or that was about to run."""
    lightning = import_module("lightning.pytorch.cli")

    class Quiet(lightning.LightningCLI):  # type: ignore[misc, name-defined]  # imported when it is asked for
        def instantiate_classes(self) -> None:
            pass

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    args = ["fit"] if run else []
    return Quiet(LightningModule, run=run, args=args, seed_everything_default=False, save_config_callback=None)


def of_data() -> Iterator[Row]:
    builder = always(lambda: import_module("datasets").ArrowBasedBuilder)
    rows = "Parquet files are read row by row"
    yield Row("datasets", "_info", builder, rows, takes="self")
    yield Row("datasets", "_split_generators", builder, rows, takes="self dl_manager")
    yield Row("datasets", "_generate_tables", builder, rows, takes="self kwargs")
    offline = always(lambda: import_module("datasets").config)
    yield Row("datasets", "HF_HUB_OFFLINE", offline, "each local file is reported to the hub", OFFLINE)


ROWS = [*of_torch(), *of_loops(), *of_fits(), *of_resume(), *of_methods(), *of_commands(), *of_parsers(), *of_data()]
