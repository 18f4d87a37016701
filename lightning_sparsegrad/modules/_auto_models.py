"""Classes of transformers that load a model with its head, imported on first access."""

from importlib import import_module
from typing import Any


class AutoModel:
    """A task's attribute that imports a class of transformers on access, since the import takes seconds.

    Args:
        name: The name of the class.

    Example:
        >>> class Task:
        ...     auto_model = AutoModel("AutoModelForTokenClassification")
        >>> Task.auto_model.__name__
        'AutoModelForTokenClassification'
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, task: object, kind: type | None = None) -> Any:
        return getattr(import_module("transformers"), self._name)
