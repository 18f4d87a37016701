"""Models and data for the command line, and the arguments that name them."""

import os
import signal
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_sparsegrad import ConfigurationError, GradientTransform, SparseGradModule


class Reader(SparseGradModule):
    """Needs `num_labels`, saves no hyperparameters, and says in `made` what it was made of."""

    made: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(
        self, num_labels: int, gradient_transform: GradientTransform, lr: float = 0.1, fault: str | None = None
    ) -> None:
        super().__init__(gradient_transform=gradient_transform, nonfinite="raise")
        if fault == "value":
            raise ValueError("Parameter `fault` should be `None`.\nFound `fault = value`.")
        if fault == "bug":
            raise RuntimeError("a bug in the constructor")
        self.made.append({"num_labels": num_labels, "lr": lr, "transform": repr(gradient_transform)})
        self.layer, self.lr, self.fault = torch.nn.Linear(2, num_labels), lr, fault

    def training_step(self, batch: Tensor) -> Tensor:
        if self.fault == "step":
            raise ValueError("a bug in the training step")
        if self.fault == "lines":
            raise ValueError("a bug,\n\n- told | in lines")
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layer(batch).square().mean() * (torch.nan if self.fault == "nan" else 1)  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor) -> None:
        self.log("val/loss", self.layer(batch).square().mean())

    def test_step(self, batch: Tensor) -> None:
        self.log("test/loss", self.layer(batch).square().mean())

    def predict_step(self, batch: Tensor) -> Tensor:
        return self.layer(batch)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Plain(LightningModule):
    """Takes no `num_labels`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: Tensor) -> Tensor:
        return self.layer(batch).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Unlabelled(LightningDataModule):
    def __init__(self, size: int = 4) -> None:
        super().__init__()
        if size < 1:
            raise ConfigurationError(f"Parameter `size` should be positive. Found `size = {size}`.")
        self.size = size

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(self.size, 2))  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class Labelled(Unlabelled):
    @property
    def num_labels(self) -> int:
        return 3


class Hook(Plain):
    """Faults that `fit` detects only at its start."""

    def setup(self, stage: str) -> None:
        raise ConfigurationError("Parameter `hook` cannot be set up.")


READER, PLAIN, HOOK = (f"--model={__name__}.{model}" for model in ("Reader", "Plain", "Hook"))
LABELLED, UNLABELLED = f"--data={__name__}.Labelled", f"--data={__name__}.Unlabelled"
DROP = ["--model.gradient_transform=GradDrop", "--model.gradient_transform.rate=0.5"]
QUICK = [
    "--seed_everything=0",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_checkpointing=false",
]
SAVE = "--trainer.enable_checkpointing=true"
