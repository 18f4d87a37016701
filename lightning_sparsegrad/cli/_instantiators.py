"""Model and data of one command: what the data determine of the model, and a checkpoint of the data."""

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

LINKED = ("num_labels", "label_names")
_MOVED = (
    " The model is built from there, and its tokenizer, before the checkpoint is restored: "
    "`--model.model_name_or_path` names a folder that holds them."
)
_DESCRIPTIONS = {"data_files": ("splits",), "dataset": ("splits", "dataset_config", "revision")}  # by origin


class ModelInstantiator(Instantiator):
    """Lightning's, which would store among the hyperparameters of a model also what is linked to arguments it lacks.

    `load_from_checkpoint` would pass them on. Nor would it say a word where the data override what the user gave.
    """

    @override
    def __call__(
        self, class_type: type[Any], *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> Any:
        links = dict(applied_instantiation_links)
        given = _arguments(self.cli, "model")
        for name in LINKED:
            value = links.get(target := f"{self.key}.init_args.{name}")
            if name not in kwargs:
                links.pop(target, None)
            elif target in links and given.get(f"init_args.{name}") not in (None, value, _default(class_type, name)):
                found = given[f"init_args.{name}"]
                raise ConfigurationError(
                    f"Parameter `--model.{name}` should be left out, or be what the data say: {value}. "
                    f"Found `--model.{name} = {found}`.{_about_problem(self.cli, name, found, value)}"
                )
        return super().__call__(class_type, *args, applied_instantiation_links=links, **kwargs)


class DataInstantiator(Instantiator):
    """Lightning's, which tells the data the classes of the checkpoint before a model asks for their number.

    Args:
        cli: The command line.
        key: Where the data stand in its config.
        trained_names: The names of the classes, empty for regression; `None` if they are the data's to tell.
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
    """Settle, in place, what is left open by the arguments of a command.

    The data learn numbers where the user gives a model one output and nothing names classes. The origin of the rows
    that a checkpoint stores is taken out where the user names one of the other kind.

    Args:
        config: What was parsed, with what the checkpoint stores as defaults.
        stored: What the checkpoint stores, if there is one.
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
    """Have what a class says of its arguments be a `ConfigurationError`, with what may have led to it."""
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
    """Say so if the model may lack what is linked to the data: jsonargparse does not require it then."""
    model, data = (_arguments(cli, key) for key in ("model", "data"))
    data_class = imported(data.get("class_path"))
    for name in LINKED:
        if model.get(f"init_args.{name}", name) is None and not hasattr(data_class, name):
            return f" Neither `--model.{name}` nor the data says `{name}`."
    return ""


def _arguments(cli: LightningCLI, key: str) -> Namespace:
    arguments: Namespace = argument(cli, key) or Namespace()  # type: ignore[no-untyped-call]
    return arguments


def _about_problem(cli: LightningCLI, name: str, found: Any, of_data: Any) -> str:
    """Say how to have data with so many labels, where the data can be told."""
    data = _arguments(cli, "data")
    if name != "num_labels" or 1 not in (found, of_data) or "init_args.problem" not in data:
        return ""
    what, problem = ("regression", "regression") if found == 1 else ("classes", "classification")
    return f" For {what}: `--data.problem={problem}`."


def _default(class_type: type[Any], name: str) -> Any:
    """Return the default of a parameter, which may be that of a base; `None` without one."""
    inits = (vars(base)["__init__"] for base in class_type.__mro__ if "__init__" in vars(base))
    found = (signature(init).parameters.get(name) for init in inits)
    default = next((parameter.default for parameter in found if parameter), Parameter.empty)
    return None if default is Parameter.empty else default
