"""Laws."""

from collections.abc import Callable

import torch

Law = Callable[[torch.device], str]
LAWS: dict[str, Law] = {}


class UnsupportedError(Exception):
    """A law cannot be checked here."""
