"""A method of transformers that is replaced on an instance.

There is no hook for it. It is checked against the installed version in `tests/private_names.py`.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from transformers import Trainer


def intercept_training_step(trainer: Trainer, run: Callable[..., Tensor]) -> None:
    """Make a Trainer call `run` for each micro-batch, with its own method as first argument.

    Without it a callback would not learn of exceptions, and could not check how losses are averaged. A callback is not
    given its Trainer: https://github.com/huggingface/transformers/issues/38181 (closed).
    """
    trainer.training_step = partial(run, trainer.training_step)  # type: ignore[method-assign]
