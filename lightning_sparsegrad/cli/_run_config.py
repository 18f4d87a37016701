"""The callback that saves the config of a run in its folder and in its checkpoints."""

from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from lightning_sparsegrad.callbacks._run_folder import run_folder, write_new
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.files._unfinished import new_folder
from lightning_sparsegrad.files._writing import fill
from lightning_sparsegrad.resume._checkpoints import CONFIG_KEY, FOLDER_KEY
from lightning_sparsegrad.resume._hyperparameters import Hyperparameters

_OF_ONE_COMMAND = {"config", "ckpt_path", "weights_only"}


class StoreConfigCallback(SaveConfigCallback):
    """Callback that saves the config in the folder of the run and in every checkpoint.

    A checkpoint then holds the arguments to resume the fit, and the classes of model and data even if these save no
    hyperparameters. No file is ever overwritten, whatever `overwrite` is: a second config is named `config-v1.yaml`.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config, once."""
        if self.already_saved:
            return
        if self.save_to_log_dir:
            folder = run_folder(trainer)  # on every rank, since the ranks agree on it
            if trainer.is_global_zero:
                self._write(Path(folder, self.config_filename))
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, stage)
        self.already_saved = True

    def _write(self, path: Path) -> None:
        if self.multifile:  # several files, named like those that were read
            try:
                with new_folder(path) as made:
                    self.parser.save(self.config, made / path.name, skip_unset=False, multifile=True)
                    fill(path.parent, made)
            except FileExistsError as error:
                raise ConfigurationError(
                    f"Parameter `multifile` should go with a folder without files of the same names. {error}."
                ) from error
            return
        text = self.parser.dump(self.config, skip_unset=False)
        write_new(path.with_suffix(""), {path.suffix: text.encode()})

    @cached_property
    def _stored(self) -> dict[str, Any]:
        text = self.parser.dump(self.config, skip_unset=False, skip_validation=True)
        config: dict[str, Any] = yaml.safe_load(text)
        return {key: value for key, value in config.items() if key not in _OF_ONE_COMMAND and value is not None}

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.store_config(checkpoint)
        Hyperparameters.of(trainer).save(checkpoint)

    def store_config(self, checkpoint: dict[str, Any]) -> None:
        """Write the config of the run into a checkpoint; tasks call it where only weights are saved."""
        checkpoint[CONFIG_KEY] = self._stored
        checkpoint[FOLDER_KEY] = str(Path.cwd())

    # for modules of any class, with or without an exact resume
    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Hyperparameters.of(trainer).fit_start(trainer)

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        Hyperparameters.of(trainer).load(trainer, checkpoint)
