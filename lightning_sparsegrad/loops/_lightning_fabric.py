"""Private names of Lightning Fabric that its adapter needs.

There are no public equivalents. Each name is checked against the installed version in `tests/private_names.py`.
"""

from torch import nn

from lightning_sparsegrad.functional._torch import uncompiled


def forward_module(model: nn.Module) -> nn.Module:
    """Return what is called of a model that Fabric has set up, with the wrappers of DDP and `torch.compile`.

    Without it the wrapper of DDP is not recognised, and no work can be skipped. No upstream issue.

    Args:
        model: As `fabric.setup` returned it, or compiled after that.
    """
    wrapper = uncompiled(model)
    inside: nn.Module = getattr(wrapper, "_forward_module", wrapper)
    return inside if wrapper is model else model
