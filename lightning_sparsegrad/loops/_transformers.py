"""Methods of transformers that are replaced on an instance.

There are no hooks for them. Each is checked against the installed version in `tests/private_names.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from transformers import Trainer


def intercept_training(trainer: Trainer, train: Callable[..., Any], training_step: Callable[..., Tensor]) -> None:
    """Make a Trainer call `train`, and `training_step` for each micro-batch, with its own methods as first argument.

    Without it a callback would not learn of exceptions, and could not check how losses are averaged. A callback is not
    given its Trainer: https://github.com/huggingface/transformers/issues/38181 (closed).
    """
    trainer.train = partial(train, trainer.train)  # type: ignore[method-assign]
    trainer.training_step = partial(training_step, trainer.training_step)  # type: ignore[method-assign]
