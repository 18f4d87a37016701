"""`sparsegrad calibrate --config task.yaml --config strategy.yaml --output mask.safetensors`: a mask by samples."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich import get_console
from torch import Tensor
from typing_extensions import override

from lightning_sparsegrad.calibrate._calibration import Calibration
from lightning_sparsegrad.calibrate._samples import give_single_samples
from lightning_sparsegrad.callbacks import ProgressLines
from lightning_sparsegrad.cli._rehearsing import RehearsingCLI, unsaid
from lightning_sparsegrad.data._checks import require_at_least
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.explain._rehearsal import load_weights
from lightning_sparsegrad.explain._trainer import HALF, KEPT, about_left_out, keep_callbacks, silence
from lightning_sparsegrad.files._new import require_new
from lightning_sparsegrad.files._writing import write_new
from lightning_sparsegrad.loops._callbacks import callbacks_of, find_callback
from lightning_sparsegrad.modules.base import SparseGradModule
from lightning_sparsegrad.transforms.masks._mask_file import mask_file
from lightning_sparsegrad.untrusted._terminal import shown

_DESCRIPTION = (
    "Choose which entries of a model a `SparseMask` trains, by the gradients of single samples, and write a mask file "
    "for its `score`. It takes the arguments of `fit`, whose strategy scores by 'fisher', 'gradient' or 'movement'. "
    "The model is in evaluation mode, on one device; no step is taken, and nothing but the file is written."
)
_HELP = {
    "output": "The safetensors file to write, which must not exist.",
    "samples": "The number of samples of the train data, in the shuffled order of a fit; all if they are fewer.",
}
_KEPT = (*KEPT, ProgressLines)


def main(args: list[str]) -> None:
    """Run the command.

    Args:
        args: The arguments behind `calibrate`.

    Raises:
        ConfigurationError: If the fit would be refused, its strategy has no such mask, or the file exists.
    """
    CalibrateCLI(args=["fit", *args], save_config_callback=None)


class CalibrateCLI(RehearsingCLI):
    """The command line of a fit, which chooses what a `SparseMask` trains and writes it into a file."""

    command, description = "calibrate", _DESCRIPTION

    # ------------------------------------------------------------ arguments
    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=str, required=True, help=_HELP["output"])
        parser.add_argument("--samples", type=int, default=1024, help=_HELP["samples"])

    @override
    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        samples, trainer = self._own.samples, self._own.trainer
        require_at_least(1, samples=samples)
        require_new(self._own.output, "output")
        self._notes = [*about_left_out(keep_callbacks(trainer, _KEPT), _KEPT)]
        settings: dict[str, Any] = {"max_steps": samples, "max_epochs": 1, "accumulate_grad_batches": 1}
        settings |= {"limit_train_batches": None, "overfit_batches": 0.0, "fast_dev_run": False}
        settings["enable_progress_bar"] = trainer.enable_progress_bar
        if trainer.precision in (*HALF, "16-true", "transformer-engine-float16"):
            settings["precision"] = "32-true"
            self._notes.append(f"computed in float32, not `precision = {trainer.precision}`: squares would underflow")
        silence(trainer, **settings)

    # ------------------------------------------------------------ the Trainer
    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        if find_callback(trainer, ProgressLines) is None:
            callbacks_of(trainer).append(ProgressLines())
        return trainer

    # ------------------------------------------------------------ the command
    @override
    def fit(self, **kwargs: Any) -> None:
        """Calibrate on the train data, write the mask, and print how to train with it."""
        model: LightningModule = self.model
        calibration = Calibration(self._own.samples, self._notes)
        calibration.join(self.trainer, model)
        source = self.datamodule
        if source is None:
            if not is_overridden("train_dataloader", model):
                raise ConfigurationError("Parameter `data` should be given to calibrate. Found none.")
            source = model
        give_single_samples(source, self._own.samples)
        if path := kwargs.get("ckpt_path"):
            step = load_weights(model, path)
            self._notes.append(f"weights of step {'?' if step is None else step}")
        with unsaid():
            self.trainer.fit(model, datamodule=self.datamodule)
        calibration.end(self.trainer)
        mask = calibration.mask
        described = {"density": mask.density, "score": mask.score, "structure": mask.structure}
        masks = mask.masks
        output = write_new(self._own.output, {"": mask_file(masks, described)})
        self._say(calibration, masks, output)

    def _say(self, calibration: Calibration, masks: Mapping[str, Tensor], output: str) -> None:
        mask = calibration.mask
        sizes = {name: mask.parameters[name].numel() for name in masks}
        trained = sum(int(each.sum()) * (sizes[name] // max(each.numel(), 1)) for name, each in masks.items())
        samples = f"{calibration.samples:,} sample{'s' if calibration.samples > 1 else ''}"
        # the class is named again, which resets what else was given: the file says it
        arguments = {"score": output, **({} if mask.freeze == "weights" else {"freeze": mask.freeze})}
        if calibration.address is not None and isinstance(self.model, SparseGradModule):
            flag = f"--model.gradient_transform{calibration.address}"
            how = shlex.join([f"{flag}=SparseMask", *(f"{flag}.{name}={value}" for name, value in arguments.items())])
        else:
            values = ", ".join(f"{name}: {value}" for name, value in arguments.items())
            how = f"{{class_path: SparseMask, init_args: {{{values}}}}} in place of `{mask!r}`"
        lines = [
            f"`{output}` has a mask of {len(sizes)} tensors: {trained:,} of {sum(sizes.values()):,} entries train, "
            f"chosen by {mask.score!r} of {samples}. Train with {how}",
            *(f"note: {line}" for line in self._notes),
        ]
        get_console().print(shown("\n".join(lines)), markup=False, highlight=False, soft_wrap=True)
