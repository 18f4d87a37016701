"""Mask files: which entries or rows of each parameter train, in safetensors files."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.errors import ConfigurationError, near_matches, reason_of, require_number
from lightning_sparsegrad.functional import pack_bits, unpack_bits
from lightning_sparsegrad.functional.selection import require_bits

_FORMAT, _VERSION = f"{__name__.partition('.')[0]}.mask", "1"


@dataclass(frozen=True)
class MaskFile:
    """The masks of a file.

    Args:
        path: Its path.
        tensors: By the name of a parameter, its mask of zeros and ones, or the packed bits of it.
        shapes: By name, the shapes of the masks that are packed.
        density: The share of entries or rows that train, if the file says so.
    """

    path: str
    tensors: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    density: float | None

    def on(self, parameters: NamedParameters) -> Iterator[tuple[str, Tensor]]:
        """Yield the first name of each parameter that the file has a mask for, and the mask, a boolean tensor.

        Raises:
            ConfigurationError: If a name or a shape does not fit, a value is not 0 or 1, or nothing trains.
        """
        first = {role: name for name, roles in parameters.roles.items() for role in roles}
        trains = len(self.tensors) < len(parameters)
        seen: dict[str, Tensor] = {}
        for role, tensor in self.tensors.items():
            # a task has its model under `model.`, which a plain loop does without
            name = next(
                (first[each] for each in (role, role.removeprefix("model."), f"model.{role}") if each in first), ""
            )
            if not name:
                self._refuse("names of parameters", f"`{role}`", near_matches(role, first))
            weight = parameters[name]
            mask = unpack_bits(tensor, self.shapes[role]) if role in self.shapes else tensor
            if mask.shape not in {weight.shape, weight.shape[:1]}:
                self._refuse(
                    f"a mask of shape {tuple(weight.shape)} or {tuple(weight.shape[:1])} for `{role}`",
                    f"shape {tuple(mask.shape)}",
                )
            if role not in self.shapes and not ((mask == 0) | (mask == 1)).all():
                self._refuse("masks of zeros and ones", f"other values for `{role}`")
            mask = mask.bool()
            if not seen.setdefault(name, mask).equal(mask):
                self._refuse("one mask for each tensor", f"two for `{name}`, which is `{role}` too,")
            trains = trains or bool(mask.any())
            yield name, mask
        if not trains:
            self._refuse("an entry that trains", "none")

    def _refuse(self, allowed: str, fault: str, hint: str = "") -> None:
        raise ConfigurationError(
            f"Parameter `score` should be a file with {allowed}. Found {fault} in `score = {self.path}`.{hint}"
        )


def chosen_file(score: str, scores: Collection[str]) -> MaskFile:
    """Return the masks of the file that a score names; `scores` are those that are no files."""
    if not isinstance(score, str) or not Path(score).is_file():
        raise ConfigurationError(
            f"Parameter `score` should be one of {', '.join(map(repr, scores))}, or the path of a mask file. "
            f"Found `score = {score!r}`, which is no {'file' if isinstance(score, str) else 'text'}."
            f"{near_matches(str(score), scores)}"
        )
    return read_mask_file(score)


def read_mask_file(path: str) -> MaskFile:
    """Return the masks of a safetensors file.

    Raises:
        ConfigurationError: If it cannot be read, or is no mask file.
    """
    try:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        return _checked(path, tensors, metadata)
    except Exception as error:  # broken files raise many classes
        raise ConfigurationError(
            f"Parameter `score` should be a mask file that can be read. Found `score = {path}`: {reason_of(error)}"
        ) from error


def _checked(path: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> MaskFile:
    """Return the masks; raise a `ValueError` unless packed ones have the bits of their shapes."""
    shapes = {name: tuple(map(int, shape)) for name, shape in json.loads(metadata.get("shapes", "{}")).items()}
    if shapes and (metadata.get("format"), metadata.get("version")) != (_FORMAT, _VERSION):
        raise ValueError(f"it has the format {metadata.get('format')!r}, version {metadata.get('version')!r}")
    for name, shape in shapes.items():
        require_bits(tensors[name], shape)
    if not tensors:
        raise ValueError("it has no tensors")
    density = float(metadata["density"]) if "density" in metadata else None
    return MaskFile(path, tensors, shapes, density)


def mask_file(masks: Mapping[str, Tensor], described: Mapping[str, Any]) -> bytes:
    """Return the content of a mask file.

    Args:
        masks: By the name of a parameter, a boolean tensor of its shape or of its number of rows.
        described: What else the file says: `density`, `score`, `structure`, say.
    """
    from safetensors.torch import save

    shapes = json.dumps({name: list(mask.shape) for name, mask in masks.items()})
    about = {name: str(value) for name, value in described.items() if value is not None}
    metadata = {**about, "format": _FORMAT, "version": _VERSION, "shapes": shapes}
    return save({name: pack_bits(mask) for name, mask in masks.items()}, metadata)


def check_density(density: float | None, score: str, file: MaskFile | None) -> float | None:
    """Return the share that trains; `None` where a file, or `"nonzero"`, says so itself."""
    if density is None:
        if file is None and score != "nonzero":
            raise ConfigurationError(
                f"Parameter `density` should be given with `score = {score!r}`. Found `density = None`."
            )
        return None
    density = require_number("density", density, lambda share: 0 < share <= 1, "above 0 and at most 1")
    own = None if file is None else file.density
    if score == "nonzero" or (file is not None and own is not None and own != density):
        raise ConfigurationError(
            f"Parameter `density` should be left out with `score = {score!r}`, which sets the share itself"
            f"{'' if own is None else f' ({own:g})'}. Found `density = {density:g}`."
        )
    return density
