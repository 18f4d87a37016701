"""The runs of a study, each an ordinary config."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import Checkpoint

from lightning_sparsegrad.cli._faults import HINT
from lightning_sparsegrad.cli._replacing import imported
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.files._writing import replacing
from lightning_sparsegrad.resume._signals import status_of
from lightning_sparsegrad.studies._lightning import ConfigReader
from lightning_sparsegrad.studies._recorder import RESULT, RunRecorder
from lightning_sparsegrad.studies._study import Overlay, Study

CONFIG, LOG = "run.yaml", "log.txt"
_RECORDER = f"{RunRecorder.__module__}.{RunRecorder.__qualname__}"
_STRING_OR_NOT_FINITE = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN')
_NOT_FINITE = {"Infinity": ".inf", "-Infinity": "-.inf", "NaN": ".nan"}
_LONGEST = 100  # bytes of a file name (of 255) for the arm, and as many for the setting


@dataclass(frozen=True)
class Run:
    """One arm in one setting with one seed.

    Args:
        arm: The name of the arm.
        setting: The name of the setting; empty if the study has no grid.
        seed: The seed.
        config: All arguments of its `fit`, defaults included.
        root: The folder of the study's runs.
    """

    arm: str
    setting: str
    seed: int
    config: dict[str, Any]
    root: Path

    @cached_property
    def digest(self) -> str:
        """A hash of its config."""
        return sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def label(self) -> str:
        """Its arm and its setting, for a sentence."""
        return f"`{self.arm}`" + (f" in `{self.setting}`" if self.setting else "")

    @property
    def name(self) -> str:
        """Its name: arm, setting and seed for people, and the digest of its config."""
        words = filter(None, (_plain(self.arm), _plain(self.setting), f"seed{self.seed}", self.digest))
        return "-".join(words)

    @property
    def folder(self) -> Path:
        """The folder of its config, logs and result."""
        return self.root / self.name

    @property
    def command(self) -> list[str]:
        """The arguments of the command that runs it."""
        return ["fit", "--config", str(self.folder / CONFIG)]

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of its result file; `None` if it has not ended."""
        path = self.folder / RESULT
        return json.loads(path.read_text()) if path.is_file() else None

    def write(self) -> None:
        """Write its config, with its folder filled in."""
        config = deepcopy(self.config)
        trainer = config["trainer"]
        trainer["default_root_dir"] = str(self.folder)
        csv = {"save_dir": str(self.folder), "name": "", "version": ""}
        csv_logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": csv}
        others = trainer["logger"] if isinstance(trainer["logger"], list) else [trainer["logger"]]
        trainer["logger"] = [csv_logger, *(other for other in others if isinstance(other, dict))]
        trainer["callbacks"].append({"class_path": _RECORDER, "init_args": {"folder": str(self.folder)}})
        with replacing(self.folder / CONFIG) as file:
            file.write(yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())


def make_runs(study: Study, root: Path) -> list[Run]:
    """Return all runs, seed by seed, so that a study that is stopped early has runs of every arm.

    Args:
        study: The study.
        root: The folder of the runs.

    Raises:
        ConfigurationError: If the overlays of an arm do not make a valid config, which names the arm, or if two arms
            or settings make the same config.
    """
    resolved = [
        (arm, setting, _resolve([*study.base, *overlays, *study.arms[arm]], study, where=f"{arm} {setting}".strip()))
        for setting, overlays in study.settings()
        for arm in study.arms
    ]
    runs = [
        Run(arm, setting, seed, {**config, "seed_everything": seed}, root)
        for seed in study.all_seeds
        for arm, setting, config in resolved
    ]
    known: dict[str, Run] = {}
    for run in runs:
        same = known.setdefault(run.digest, run)
        if same is not run:
            raise ConfigurationError(
                f"Parameters `arms` and `grid` should make different configs under different names. Found {same.label} "
                f"and {run.label}, which are the same."
            )
    return runs


def _resolve(overlays: Sequence[Overlay], study: Study, *, where: str) -> dict[str, Any]:
    """Parse overlays as the command line does, and add what a run of a study needs."""
    messages = StringIO()
    try:
        with redirect_stderr(messages):
            reader = ConfigReader(args=["fit", *_arguments(overlays)])
    except (ConfigurationError, SystemExit) as error:
        if (status := status_of(error)) is not None:  # a signal, which the study reports
            raise SystemExit(status) from error
        reason = messages.getvalue().strip().removeprefix("error: ").removesuffix(HINT).strip() or str(error)
        raise ConfigurationError(f"In arm `{where}`: {reason}") from error
    config = reader.resolved
    trainer = config["trainer"]
    callbacks = trainer["callbacks"] if isinstance(trainer["callbacks"], list) else [trainer["callbacks"]]
    callbacks = [callback for callback in callbacks if callback]
    if not study.checkpoints:
        callbacks = [callback for callback in callbacks if not _keeps_checkpoints(callback["class_path"])]
        trainer["enable_checkpointing"] = False
    recorders = {"GradientMonitor": study.gradients_every, "PretrainedDistance": study.distances_every}
    for name, every in recorders.items():
        if every:  # replaces one of the base, which would write the same file
            callbacks = [callback for callback in callbacks if callback["class_path"].rpartition(".")[2] != name]
            callbacks.append({"class_path": name, "init_args": {"every_n_steps": every}})
    trainer["callbacks"] = callbacks
    trainer["enable_progress_bar"] = False
    return config


def _arguments(overlays: Sequence[Overlay]) -> Iterator[str]:
    for overlay in overlays:
        if isinstance(overlay, str):
            yield from ("--config", overlay)
        else:
            for name, value in overlay.items():
                yield f"--{name}={value if isinstance(value, str) else _as_yaml(value)}"


def _as_yaml(value: Any) -> str:
    """Return a value in one line; JSON is YAML except for numbers that are not finite."""
    return _STRING_OR_NOT_FINITE.sub(lambda match: _NOT_FINITE.get(match[0], match[0]), json.dumps(value))


def _keeps_checkpoints(class_path: str) -> bool:
    cls = imported(class_path)
    return isinstance(cls, type) and issubclass(cls, Checkpoint)


def _plain(words: str) -> str:
    """Return words as a piece of a file name, cut if they are long."""
    plain = re.sub(r"[^\w.+-]+", "_", words).strip("_")
    return plain.encode()[:_LONGEST].decode(errors="ignore")
