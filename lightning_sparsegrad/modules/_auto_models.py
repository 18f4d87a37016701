"""Classes of transformers that load a model with its head, imported when they are asked for."""

from importlib import import_module
from typing import Any


class AutoModel:
    """An attribute of a task that is a class of transformers, whose import takes seconds.

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
