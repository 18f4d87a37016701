"""The tensors that the optimizers of a fit hold: no other one trains, whatever a strategy drops."""

from collections.abc import Iterable
from dataclasses import replace

from torch.optim import Optimizer

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.engine import Description


def only_held(
    description: Description, parameters: NamedParameters, optimizers: Iterable[Optimizer]
) -> tuple[Description, str | None]:
    """Return a description in which no tensor trains but those that an optimizer holds, and a line about the others.

    Args:
        description: What a strategy does to a model, as if an optimizer held everything.
        parameters: The parameters of the model.
        optimizers: The optimizers.
    """
    held = {id(tensor) for each in optimizers for group in each.param_groups for tensor in group["params"]}
    others = {name for name, tensor in parameters.tensors.items() if tensor.requires_grad and id(tensor) not in held}
    if not others:
        return description, None
    rows = tuple(
        replace(row, first_step=None, last_step=None, pauses=False, trained=0.0) if row.name in others else row
        for row in description.tensors
    )
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in parameters.tensors.items()}
    memory = replace(description.memory, moments=2 * sum(sizes[row.name] for row in rows if row.trained))
    entries = sum(row.entries for row in rows if row.name in others)
    layers = list(dict.fromkeys(row.layer for row in rows if row.name in others))
    names = ", ".join(layers if len(layers) <= 4 else [*layers[:3], "..."])  # as a line takes
    line = f"no optimizer holds {entries:,} parameters in {len(others)} tensors, which never train: {names}"
    return replace(description, tensors=rows, memory=memory), line
