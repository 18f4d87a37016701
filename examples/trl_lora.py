"""Fine-tune a causal language model with LoRA in TRL's `SFTTrainer`, with GradDrop and component-wise clipping.

    pip install -e ".[peft,trl]"
    python examples/trl_lora.py
    python examples/trl_lora.py --model FOLDER --data train.jsonl --full

Each step drops a fifth of the gradient's entries, and clips each matrix by itself: those of LoRA, or with `--full` all.
"""

import argparse
from collections.abc import Sequence

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, TransformersCallback


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fine-tune a language model with LoRA in TRL.")
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="hub id or folder")
    parser.add_argument("--data", help="lines of JSON with `question` and `answer`, in place of openai/gsm8k")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--max-length", type=int, default=256, help="tokens of a sample")
    parser.add_argument("--full", action="store_true", help="train all weights, without LoRA")
    parser.add_argument("--output", default="outputs", help="folder for checkpoints")
    args = parser.parse_args(argv)

    if args.data:
        rows = load_dataset("json", data_files=args.data, split="train")
    else:
        rows = load_dataset("openai/gsm8k", "main", split="train")
    rows = rows.rename_columns({"question": "prompt", "answer": "completion"})  # the loss is that of the answers
    splits = rows.train_test_split(test_size=32, seed=0)

    arguments = SFTConfig(
        output_dir=args.output,
        max_steps=args.steps,
        max_length=args.max_length,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=5e-5 if args.full else 1e-3,
        max_grad_norm=0,  # switches off the Trainer's own clip, which is on by default
        bf16=torch.cuda.is_available(),
        logging_steps=5,
        report_to="none",
    )
    trainer = SFTTrainer(
        args.model,
        arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["test"],
        peft_config=None if args.full else LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    TransformersCallback(Chain([GradDrop(rate=0.2), ComponentNormClip(max_norm=0.05)])).attach(trainer)

    before = trainer.evaluate()["eval_loss"]
    trainer.train()  # logs `gradient/kept` and `gradient/clipped` beside the loss
    after = trainer.evaluate()["eval_loss"]
    print(f"validation loss {before:.3f} -> {after:.3f}")
    trainer.save_model()


if __name__ == "__main__":
    main()
