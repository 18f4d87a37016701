"""The law of the Trainer of transformers."""

import tempfile
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.laws._law import SEED, UnsupportedError, small, tokens_of, weights_of
from benchmarks.gpu.laws.loops import STEPS, mask_and_clip, quietly, require_trained


class _WithLoss(nn.Module):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.model = small(device)

    def forward(self, tokens: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(tokens).float().flatten(0, 1)
        return {"loss": nn.functional.cross_entropy(logits, labels.flatten())}


def check_transformers(device: torch.device) -> str:
    """A `transformers.Trainer` with the callback, in float32 and in bf16, and in fp16 on a GPU."""
    if find_spec("accelerate") is None:
        raise UnsupportedError("the Trainer of transformers needs Accelerate, which is not installed")
    from transformers import PrinterCallback, TrainingArguments
    from transformers import Trainer as HuggingFaceTrainer  # slow, and needs Accelerate

    from lightning_sparsegrad import TransformersCallback

    kinds: list[dict[str, Any]] = [{}, {"bf16": True}, *[{"fp16": True}] * (device.type == "cuda")]
    for kind in kinds:
        with quietly(), tempfile.TemporaryDirectory() as folder:
            model = _WithLoss(device)
            arguments = TrainingArguments(
                output_dir=folder,
                max_steps=STEPS,
                per_device_train_batch_size=4,
                learning_rate=0.01,
                weight_decay=0.1,
                lr_scheduler_type="constant",
                max_grad_norm=0,
                use_cpu=device.type == "cpu",
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                seed=SEED,
                **kind,
            )
            rows = [
                {"tokens": row, "labels": row % 7}
                for step in range(STEPS)
                for row in tokens_of(step, torch.device("cpu"))
            ]
            callback = TransformersCallback(mask_and_clip())
            trainer = HuggingFaceTrainer(model, arguments, train_dataset=rows, callbacks=[callback])
            callback.attach(trainer)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        assert callback.gradient_engine.step == STEPS, f"{kind}: {callback.gradient_engine.step} windows"
        require_trained(weights_of(model.model), device, str(kind))
    return f"{len(kinds)} runs"
