"""Every strategy and every schedule of the library, and every overlay of `configs/gradient`: none is listed by hand."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from re import sub
from typing import Any

import yaml

from lightning_sparsegrad import GradientTransform, Schedule, transforms

ROOT = Path(__file__).parents[1]

for _module in walk_packages(transforms.__path__, f"{transforms.__name__}."):
    import_module(_module.name)


def _concrete(base: type) -> Iterator[type]:
    subclasses: list[type] = base.__subclasses__()
    for kind in subclasses:
        if not inspect.isabstract(kind) and kind.__module__.startswith("lightning_sparsegrad."):
            yield kind
        yield from _concrete(kind)


STRATEGIES = tuple(sorted(set(_concrete(GradientTransform)), key=lambda kind: kind.__name__))
SCHEDULES = tuple(sorted(set(_concrete(Schedule)), key=lambda kind: kind.__name__))
OVERLAYS = {path.stem: path for path in sorted((ROOT / "configs" / "gradient").glob("*.yaml"))}


def overlay_name(strategy: type) -> str:
    """Return the name of the overlay that every strategy needs: its own, in lower case, words apart: `ada_gc`."""
    return sub("(?<=[a-z])(?=[A-Z])", "_", strategy.__name__).lower()


def spec_in(overlay: str) -> dict[str, Any]:
    """Return what an overlay says of its strategy: `class_path`, and `init_args` where there are any."""
    assert overlay in OVERLAYS, f"a strategy needs an overlay of its name: add configs/gradient/{overlay}.yaml"
    spec: dict[str, Any] = yaml.safe_load(OVERLAYS[overlay].read_text())["model"]["init_args"]["gradient_transform"]
    return spec
