"""The commands that kills.py stops: a fit of one process or two, and a study, as forks of a process with all imports.

Every process reports its progress on a pipe: lines of its process id, its rank and a moment.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from threading import RLock
from typing import Any

import datasets
import rich
import torch
import yaml
from datasets import Dataset
from lightning.pytorch import Callback
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import BertForSequenceClassification  # noqa: F401  # loaded once, for all forks

from lightning_sparsegrad import TextDataModule
from lightning_sparsegrad.main import main
from lightning_sparsegrad.studies import _command as _study  # noqa: F401  # the same
from tests import hub
from tests.data.helpers import write

FAMILIES = ("one", "ddp", "study")
MOMENTS = ("start", "tokenise", "train", "validation", "write", "end")
_ENV = "SPARSEGRAD_KILLS"  # the pipe


def mark(moment: str) -> None:
    if pipe := os.environ.get(_ENV):
        os.write(int(pipe), f"{os.getpid()} {os.environ.get('LOCAL_RANK', '0')} {moment}\n".encode())


class Marks(Callback):
    def on_train_batch_start(self, *_: Any) -> None:
        mark("train")

    def on_validation_batch_start(self, *_: Any) -> None:
        mark("validation")

    def on_train_end(self, *_: Any) -> None:
        mark("end")


class Texts(TextDataModule):
    def dataset(self, split: str) -> Dataset:
        mark("tokenise")
        return super().dataset(split)


class Forked(subprocess.Popen[bytes]):
    """A command of this library in a fork of this process, which need not import everything again."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        given = dict(zip(_EXECUTE, rest, strict=False))
        self.pid = os.fork()
        if not self.pid:
            for descriptor in (1, 2):
                target = given["c2pwrite" if descriptor == 1 else "errwrite"]
                if target != -1:
                    os.dup2(target, descriptor)
            if given["start_new_session"]:
                os.setsid()
            run(args[args.index("-m") + 2 :], given["env"])
        self._child_created = True


_EXECUTE = (
    *("executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo", "creationflags", "shell"),
    *("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite", "restore_signals", "gid", "gids", "uid"),
    *("umask", "start_new_session", "process_group"),
)


def run(arguments: list[str], env: Any = None) -> None:
    """Run a command as a new process would, and end."""
    status = 1
    warnings.simplefilter("ignore")
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell may have started this in the background
        os.environ.update(env or {})
        sys.argv = ["sparsegrad", *map(str, arguments)]
        sys.stdout, sys.stderr = (os.fdopen(os.dup(descriptor), "w", buffering=1) for descriptor in (1, 2))
        rich._console = None  # another thread may hold its lock
        tqdm.set_lock(RLock())  # its own is shared with forks, one of which may have been killed with it
        from lightning.fabric.utilities.rank_zero import rank_zero_only

        setattr(rank_zero_only, "rank", int(os.environ.get("LOCAL_RANK", "0")))  # noqa: B010
        setattr(subprocess, "Popen", Forked)  # noqa: B010
        torch.save, os.replace, os.link = (_marked(write) for write in (torch.save, os.replace, os.link))
        mark("start")
        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _marked(write: Any) -> Any:
    def marked(*args: Any, **kwargs: Any) -> Any:
        mark("write")
        return write(*args, **kwargs)

    return marked


def start(arguments: list[str], output: Path, cache: Path, pipe: int) -> int:
    """Start a command as the first process of a session; return its id."""
    process = os.fork()
    if process:
        return process
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    datasets.config.HF_DATASETS_CACHE = cache
    run(arguments, {_ENV: str(pipe)})
    raise AssertionError


def material(folder: Path) -> None:
    """Write what the commands read."""
    folder.mkdir(parents=True)
    encoder = hub.tiny_encoder(folder / "encoder", layers=1)
    keys = [f"{hub.KEYS[row % 17]} the rain falls {hub.KEYS[row % 5]}" for row in range(24)]
    files = {
        part: str(write(folder / f"{part}.csv", text=keys[:rows], label=["no", "yes"] * (rows // 2)))
        for part, rows in {"train": 24, "validation": 6}.items()
    }
    base = {
        "seed_everything": 0,
        "model": {
            "class_path": "SequenceClassification",
            "init_args": {"model_name_or_path": encoder, "num_labels": 2},
        },
        "data": {"class_path": f"{__name__}.Texts", "init_args": {"data_files": files, "batch_size": 2}},
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accumulate_grad_batches": 2,
            "max_epochs": 4,
            "val_check_interval": 3,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 1,
            "callbacks": [{"class_path": f"{__name__}.Marks"}],
        },
    }
    drop = {"class_path": "GradDrop", "init_args": {"rate": 0.5}}
    clip = {"class_path": "ComponentNormClip", "init_args": {"max_norm": 0.02}}
    chain = {"class_path": "Chain", "init_args": {"transforms": {"mask": drop, "clip": clip}}}
    base["model"]["init_args"]["gradient_transform"] = chain  # type: ignore[index]
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    quick = {"trainer.max_epochs": 2, "trainer.accumulate_grad_batches": 1}
    arms = {"plain": [{"model.gradient_transform": "Identity"}], "drop": [{"model.gradient_transform": drop}]}
    study = {"base": [str(folder / "base.yaml"), quick], "arms": arms, "seeds": 2, "metric": "val/loss", "mode": "min"}
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


def arguments(family: str, shared: Path, folder: Path, checkpoint: Path | None) -> list[str]:
    """Return what a user would type to start a command or to resume it; every step leaves a checkpoint."""
    if family == "study":
        return ["study", f"--config={shared / 'study.yaml'}", f"--folder={folder / 'study'}", "--jobs=2", "--retry"]
    keeping = {"dirpath": str(folder / "checkpoints"), "filename": "{step}", "every_n_train_steps": 1}
    keep = {"class_path": "ModelCheckpoint", "init_args": {**keeping, "save_top_k": -1}}
    return [
        *("fit", f"--config={shared / 'base.yaml'}", f"--trainer.default_root_dir={folder}"),
        f"--trainer.callbacks+={json.dumps(keep)}",
        *(["--trainer.devices=2", "--trainer.strategy=ddp"] if family == "ddp" else []),
        *([f"--ckpt_path={checkpoint}"] if checkpoint else []),
    ]
