"""The old module names of 0.1, kept until 0.3 because programs and configs name classes by them."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_OURS = __package__
_MOVED = {
    "callbacks.exact_resume": "resume.exact_resume",
    "callbacks.history": "callbacks._history",
    "components.patterns": "components._patterns",
    "components.tree": "components._tree",
    "data.encodings.answers": "data.encodings._answers",
    "data.encodings.base": "data.encodings._base",
    "data.encodings.ranking": "data.encodings._ranking",
    "data.encodings.sequence": "data.encodings._sequence",
    "data.encodings.tokens": "data.encodings._tokens",
    "data.loaded": "data._loaded",
    "data.order": "data.samplers",
    "learning_rates": "loops.learning_rates",
    "functional.blocks": "functional._blocks",
    "functional.fused": "functional._fused",
    "meter": "engine.gradient_meter",
    "nonfinite": "engine._nonfinite",
    "parser": "cli.parser",
    "resume.waiting": "resume._waiting",
    "skipping": "engine._skipping",
    "studies.histories": "studies.gradient_pictures",
    "studies.recorder": "studies._recorder",
    "transforms.component_norm_clip": "transforms.clips.component_norm_clip",
    "transforms.draws": "transforms.masks.mask",
    "transforms.global_norm_clip": "transforms.clips.global_norm_clip",
    "transforms.grad_drop": "transforms.masks.grad_drop",
    "transforms.gradual_unfreezing": "transforms.freezes.gradual_unfreezing",
    "transforms.head_only": "transforms.freezes.head_only",
    "transforms.layer_grad_drop": "transforms.masks.layer_grad_drop",
    "transforms.layer_mask": "transforms.freezes.layer_mask",
    "transforms.norm_clip": "transforms.clips.norm_clip",
    "transforms.value_clip": "transforms.clips.value_clip",
}


class _Finder(MetaPathFinder, Loader):
    """A finder that imports a module of 0.1 from its new path."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if _now(fullname) else None

    def exec_module(self, module: ModuleType) -> None:
        name, now = module.__name__, _now(module.__name__)
        message = f"`{name}` has moved to `{now}`; the old name will be removed in 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        sys.modules[name] = import_module(now)


def _now(name: str) -> str:
    moved = _MOVED.get(name.removeprefix(f"{_OURS}."))
    return f"{_OURS}.{moved}" if moved and name.startswith(f"{_OURS}.") else ""


class _Package(ModuleType):
    """A package whose modules of 0.1 are attributes before they are imported, as they were in 0.1."""

    def __getattr__(self, name: str) -> ModuleType:
        if not _now(f"{self.__name__}.{name}"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return import_module(f"{self.__name__}.{name}")

    def __setattr__(self, name: str, value: object) -> None:  # called when a module in it is imported
        super().__setattr__(name, value)
        if isinstance(value, ModuleType) and value.__name__ == f"{_OURS}.transforms":
            keep_attributes(value)


def keep_attributes(package: ModuleType) -> None:
    """Give a package that 0.1 imported whole its old modules as attributes, imported on first use."""
    package.__class__ = _Package


sys.meta_path.insert(0, _Finder())  # before any files of 0.1 that an upgrade has left behind
