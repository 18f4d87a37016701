"""Instantiation of model and data, with arguments that the data or a checkpoint determine."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningCLI
from typing_extensions import override

from lightning_sparsegrad.cli._faults import reason_in
from lightning_sparsegrad.cli._lightning import ABOUT_ARGUMENTS, Instantiator, argument
from lightning_sparsegrad.cli._replacing import imported
from lightning_sparsegrad.data import TokenizedDataModule
from lightning_sparsegrad.errors import ConfigurationError

FROM_DATA = ("num_labels", "label_names")
_MOVED = (
    " Model and tokenizer are built from this path before the checkpoint is restored: give their present folder as "
    "`--model.model_name_or_path`."
)
# arguments that describe each origin of the rows
_DESCRIPTIONS = {"data_files": ("splits",), "dataset": ("splits", "dataset_config", "revision")}


class ModelInstantiator(Instantiator):
    """Lightning's instantiator of the model, without two of its faults.

    Lightning's stores linked values among the hyperparameters even if the model has no such argument, and
    `load_from_checkpoint` then passes them to the model. And where the data override an argument that the user gave,
    Lightning's is silent; this one raises an error.
    """

    @override
    def __call__(
        self, class_type: type[Any], *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> Any:
        links = dict(applied_instantiation_links)
        given = _arguments(self.cli, "model")
        for name in FROM_DATA:
            value = links.get(target := f"{self.key}.init_args.{name}")
            if name not in kwargs:
                links.pop(target, None)
            elif target in links and given.get(f"init_args.{name}") not in (None, value, _default(class_type, name)):
                user_value = given[f"init_args.{name}"]
                raise ConfigurationError(
                    f"Parameter `--model.{name}` should be left out, or be that of the data: {value}. "
                    f"Found `--model.{name} = {user_value}`.{_about_problem(self.cli, name, user_value, value)}"
                )
        return super().__call__(class_type, *args, applied_instantiation_links=links, **kwargs)


class DataInstantiator(Instantiator):
    """Lightning's instantiator of the data, which gives them the classes of the checkpoint before the model is made.

    Args:
        cli: The command line.
        key: The key of the data in its config.
        trained_names: The names of the classes, empty for regression; `None` if the data determine them.
    """

    def __init__(self, cli: LightningCLI, key: str, trained_names: list[str] | None) -> None:
        super().__init__(cli, key)
        self.trained_names = trained_names

    @override
    def __call__(
        self, class_type: type[Any], *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> Any:
        data = super().__call__(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
        if isinstance(data, TokenizedDataModule):
            data.trained_names = self.trained_names
        return data


def settle(config: Namespace, stored: Mapping[str, Any] | None) -> None:
    """Derive arguments that the command leaves open, in place.

    The problem is regression if the user gives the model one output and nothing names classes. If the user names
    `dataset` and the checkpoint stores `data_files`, or the reverse, the stored origin of the rows is removed.

    Args:
        config: The parsed arguments, with those of the checkpoint as defaults.
        stored: The arguments in the checkpoint, if there is one.
    """
    model, data = (config.get(f"{key}.init_args") for key in ("model", "data"))
    if not isinstance(data, Namespace):
        return
    is_one_number = isinstance(model, Namespace) and model.get("num_labels") == 1 and data.get("label_names") is None
    if is_one_number and data.get("problem", "") is None:
        data.problem = "regression"
    before = ((stored or {}).get("data") or {}).get("init_args") or {}
    kept = [origin for origin in _DESCRIPTIONS if data.get(origin) == before.get(origin)]
    if stored is not None and all(data.get(origin) for origin in _DESCRIPTIONS) and len(kept) == 1:
        for name in (*kept, *_DESCRIPTIONS[kept[0]]):
            if name in data and data[name] == before.get(name):
                data[name] = None


@contextmanager
def refusals(cli: LightningCLI) -> Iterator[None]:
    """Turn errors of a class about its arguments into a `ConfigurationError` with a hint at the cause."""
    try:
        yield
    except Exception as error:
        cause: BaseException = error  # jsonargparse wraps whatever a constructor raises
        while cause.__cause__ is not None and not isinstance(cause, ConfigurationError):
            cause = cause.__cause__
        if isinstance(error, ConfigurationError) or not isinstance(cause, ABOUT_ARGUMENTS):
            raise
        text = reason_in(error)
        moved = _MOVED if "`model_name_or_path`" in text and argument(cli, "ckpt_path") else ""
        raise ConfigurationError(text + _about_missing(cli) + moved) from error


def _about_missing(cli: LightningCLI) -> str:
    """Return a hint if neither user nor data give a linked argument: jsonargparse does not require those."""
    model, data = (_arguments(cli, key) for key in ("model", "data"))
    data_class = imported(data.get("class_path"))
    for name in FROM_DATA:
        if model.get(f"init_args.{name}", name) is None and not hasattr(data_class, name):
            return f" Neither `--model.{name}` nor the data give `{name}`."
    return ""


def _arguments(cli: LightningCLI, key: str) -> Namespace:
    arguments: Namespace = argument(cli, key) or Namespace()  # type: ignore[no-untyped-call]
    return arguments


def _about_problem(cli: LightningCLI, name: str, given: Any, of_data: Any) -> str:
    """Return the flag that gives the data as many labels as the user asked for, if they have one."""
    data = _arguments(cli, "data")
    if name != "num_labels" or 1 not in (given, of_data) or "init_args.problem" not in data:
        return ""
    what, problem = ("regression", "regression") if given == 1 else ("classes", "classification")
    return f" For {what}: `--data.problem={problem}`."


def _default(class_type: type[Any], name: str) -> Any:
    """Return the default of a parameter, also one that a base class declares; `None` without one."""
    inits = (vars(base)["__init__"] for base in class_type.__mro__ if "__init__" in vars(base))
    parameters = (signature(init).parameters.get(name) for init in inits)
    default = next((parameter.default for parameter in parameters if parameter), Parameter.empty)
    return None if default is Parameter.empty else default
