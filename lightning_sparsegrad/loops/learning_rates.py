"""The schedules of transformers that take the length of the training, which is optional here.

`get_cosine_schedule_with_warmup` and the like, with the same arguments; `num_training_steps` defaults to the length of
the run. A config that names a schedule of transformers gets the one here.
"""

import re
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, isfunction, signature
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

TRAINING_STEPS = "num_training_steps"
_SCHEDULES = re.compile(r"get_\w*schedule(_\w+)?")


def _with_length_left_out(schedule: Callable[..., LRScheduler]) -> Callable[..., LRScheduler]:
    @wraps(schedule)
    def own(*args: Any, **kwargs: Any) -> LRScheduler:
        return schedule(*args, **kwargs)

    parameters = []
    for name, parameter in signature(schedule, eval_str=True).parameters.items():
        if name == TRAINING_STEPS:
            parameter = parameter.replace(default=None, annotation=int | None, kind=Parameter.KEYWORD_ONLY)
        elif parameter.annotation is Parameter.empty and name != "optimizer":
            default = parameter.default
            parameter = parameter.replace(annotation=int if default is Parameter.empty else type(default))
        parameters.append(parameter)
    parameters.sort(key=lambda parameter: parameter.kind)
    own.__module__ = __name__
    own.__signature__ = signature(own).replace(parameters=parameters, return_annotation=LRScheduler)  # type: ignore[attr-defined]
    own.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": LRScheduler}
    del own.__wrapped__  # its signature differs
    return own


def __getattr__(name: str) -> Any:
    if name != "__all__" and not _SCHEDULES.fullmatch(name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from transformers import optimization

    schedules = {
        name: _with_length_left_out(function)
        for name, function in vars(optimization).items()
        if _SCHEDULES.fullmatch(name) and isfunction(function)
        if TRAINING_STEPS in signature(function).parameters
    }
    globals().update(schedules, __all__=list(schedules))
    try:
        return globals()[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
