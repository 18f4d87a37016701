"""Baselines: common masks and clips, in their usual implementations."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def drop_by_bernoulli_(gradients: Iterable[Tensor], rate: float) -> None:
    """Drop entries with a mask per tensor from the global generator, the straightforward implementation."""
    for gradient in gradients:
        gradient.mul_(torch.bernoulli(torch.full_like(gradient, 1 - rate)))


def child_tuning_(gradients: Iterable[Tensor], keep: float) -> None:
    """Drop entries and rescale like Child-Tuning-F inside its optimizer step, before the moments are updated.

    References:
        R. Xu et al., "Raise a Child in Large Language Model: Towards Effective and Generalizable Fine-tuning", 2021,
        https://arxiv.org/abs/2109.05687, and the authors' `ChildTuningOptimizer.py`.
    """
    for gradient in gradients:
        mask = torch.distributions.Bernoulli(gradient.new_full(gradient.size(), keep))
        gradient *= mask.sample() / keep  # type: ignore[no-untyped-call]  # torch ships it without types


def clip_as_authors_(model: nn.Module, max_norm: float) -> dict[str, dict[str, float]]:
    """Clip every parameter like the code of CGNC's authors, including its statistics: 9 host reads per tensor.

    Their code skips the clip when it collects no statistics, so that the two cannot be timed separately.

    References:
        C. Yang and X. Ma, "Improving Stability of Fine-Tuning Pretrained Language Models via Component-Wise Gradient
        Norm Clipping", 2022, https://arxiv.org/abs/2210.10325, and the authors' `GradClipTrainer.training_step`.
    """
    collected = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        gradient = parameter.grad
        collected[name] = {
            "clipped": float(parameter.numel() if max_norm < gradient.norm() + 1e-6 else 0),
            "gradient_norm": gradient.norm().item(),
            "parameter_norm": parameter.norm().item(),
            "gradient_max": gradient.max().item(),
            "gradient_min": gradient.min().item(),
            "gradient_mean": gradient.mean().item(),
            "parameter_max": parameter.max().item(),
            "parameter_min": parameter.min().item(),
            "parameter_mean": parameter.mean().item(),
        }
        nn.utils.clip_grad_norm_(parameter, max_norm)
    return collected


def clip_each_(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Clip every parameter with a separate call of torch's clip."""
    for parameter in parameters:
        nn.utils.clip_grad_norm_(parameter, max_norm)
