"""`sparsegrad explain --config task.yaml --config strategy.yaml`: the arguments of a fit, and what the fit would do."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich import get_console
from typing_extensions import override

from lightning_sparsegrad.cli._rehearsing import RehearsingCLI, unsaid
from lightning_sparsegrad.data._checks import require_at_least
from lightning_sparsegrad.errors import ConfigurationError
from lightning_sparsegrad.explain._rehearsal import Explained, Rehearsal, Unmoved, load_weights
from lightning_sparsegrad.explain._trainer import settle_trainer, stand_in
from lightning_sparsegrad.modules._pretrained import without_weights
from lightning_sparsegrad.untrusted._terminal import shown

_DESCRIPTION = (
    "Say what a strategy will do to a model before it trains: when each layer trains, rates and thresholds, what is "
    "frozen and what is skipped, memory. It takes the arguments of `fit`. No weights are loaded and nothing is written."
)
_HELP = {
    "windows": "Load weights and data, compute the gradients of so many windows without a step, and print the norms "
    "that a clip would see: which `max_norm`?",
    "total_steps": "Optimizer steps of the training, in place of counting them by the data, which then are not read.",
    "json": "Print JSON, with every tensor and component.",
}
_NO_DATA = (
    " Without the data: `--total_steps=1000`, and `--model.num_labels` if only the data know it, describe the training."
)


def main(args: list[str]) -> None:
    """Run the command.

    Args:
        args: The arguments behind `explain`.

    Raises:
        ConfigurationError: If the fit would be refused, or a number that it needs is not known.
    """
    ExplainCLI(args=["fit", *args], save_config_callback=None)


class ExplainCLI(RehearsingCLI):
    """The command line of a fit, which says what the fit would do."""

    command, description = "explain", _DESCRIPTION

    # ------------------------------------------------------------ arguments
    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        for name in ("windows", "total_steps"):
            parser.add_argument(f"--{name}", type=int | None, default=None, help=_HELP[name])
        parser.add_argument("--json", action="store_true", help=_HELP["json"])

    # ------------------------------------------------------------ model, data and Trainer
    @override
    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        steps, windows = self._own.total_steps, self._own.windows
        numbers = {"total_steps": steps, "windows": windows}
        require_at_least(1, **{name: number for name, number in numbers.items() if number is not None})
        if steps and windows:
            raise ConfigurationError(
                f"Parameter `total_steps` should be left out with `windows`, which counts by the data. "
                f"Found `total_steps = {steps}`."
            )
        self._devices = settle_trainer(self._own.trainer, total_steps=steps, on_meta=windows is None)
        self._drops_data = bool(steps) and self._own.data is not None and self._knows_labels()
        if self._drops_data:
            self._own.data = None
        if self._own.data is None and not self._knows_labels():
            raise ConfigurationError("Parameter `num_labels` of the model should be given without data. Found none.")

    def _knows_labels(self) -> bool:
        arguments = self._own.model.get("init_args") or {}
        return arguments.get("num_labels", 0) is not None

    @override
    def instantiate_classes(self) -> None:
        if self._own.windows is not None:
            super().instantiate_classes()
            return
        try:
            with without_weights():
                super().instantiate_classes()
        except (ConfigurationError, OSError) as error:
            if self._own.data is None or "`model_name_or_path`" in str(error):
                raise
            raise ConfigurationError(f"{error}{_NO_DATA}") from error

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Instantiate a Trainer that writes nothing, in one process, and leaves weights where they are."""
        changes: dict[str, Any] = {} if self._own.windows is not None else {"strategy": Unmoved()}
        return super().instantiate_trainer(**changes, **kwargs)

    # ------------------------------------------------------------ the command
    @override
    def fit(self, **kwargs: Any) -> None:
        """Begin the fit, and print what it would do."""
        model: LightningModule = self.model
        path = kwargs.get("ckpt_path")
        notes = [*self._devices.notes]
        if self._own.windows is None:
            notes += ["`ckpt_path` is read with `windows` only: this is the training from its start"] if path else []
        elif path:
            step = load_weights(model, path)
            notes.append(f"weights of step {'?' if step is None else step}; masks, rates and thresholds of step 0 on")
        source: dict[str, Any] = {"datamodule": self.datamodule}
        has_none = self.datamodule is None and not is_overridden("train_dataloader", model)
        if self._own.total_steps or has_none:
            source = {"train_dataloaders": stand_in(self._own.trainer, self._own.total_steps)}
        if has_none and not self._own.total_steps:
            if self._own.windows is not None:
                raise ConfigurationError("Parameter `data` should be given with `windows`. Found none.")
            notes.append("no data are given, which `fit` needs: `--total_steps` says how many steps there are")
        rehearsal = Rehearsal(windows=self._own.windows or 0, why_whole=self._devices.why_whole, notes=notes)
        rehearsal.join(self.trainer, model)
        try:
            with unsaid(), suppress(Explained):
                self.trainer.fit(model, **source)
        except (ConfigurationError, OSError) as error:
            if self._drops_data and "`tokenizer`" in str(error):
                raise ConfigurationError(f"{error} The data have one, and are read without `--total_steps`.") from error
            if rehearsal.has_data or self._own.windows is not None:
                raise
            raise ConfigurationError(f"{error}{_NO_DATA}") from error
        text = json.dumps(rehearsal.as_dict(), indent=2) if self._own.json else str(rehearsal)
        get_console().print(shown(text), markup=False, highlight=False, soft_wrap=True)
