"""Sparse fine-tuning: a fixed share of the entries or rows trains, chosen by a score."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from warnings import warn

import torch
from torch import Tensor

from lightning_sparsegrad.components import NamedParameters, find_layers
from lightning_sparsegrad.errors import ConfigurationError, require_integer, require_one_of
from lightning_sparsegrad.functional import group_of, select_largest, shard_of, unpack_bits
from lightning_sparsegrad.functional.sharding import is_spread, whole_of
from lightning_sparsegrad.transforms.base import Gradients, Phase, Window, check_seed
from lightning_sparsegrad.transforms.masks._mask_file import check_density, chosen_file
from lightning_sparsegrad.transforms.masks._scores import (
    OF_GRADIENTS,
    OF_WEIGHTS,
    GradientScores,
    of_rows,
    random_scores,
)
from lightning_sparsegrad.transforms.masks.fixed_mask import FixedMask

_SCORES = (*OF_GRADIENTS, *OF_WEIGHTS, "random")
_WINDOWS = 32


class SparseMask(FixedMask):
    r"""Train a fixed share of the weights: the entries or rows with the largest scores.

    .. math:: m_i = 1 \text{ for the } k = \text{round}(\text{density} \cdot N) \text{ largest scores } s_i,
        \text{ else } 0

    of :math:`N` entries (or rows). Of equal scores the first ones are taken, in the order of the model. All other
    entries are frozen, see `FixedMask`. The scores are:

    - `"fisher"`: :math:`\sum g_i^2`, the diagonal of the empirical Fisher information, where each window counts as one
      sample; `sparsegrad calibrate` sums over single samples, as FISH does;
    - `"gradient"`: :math:`\sum |g_i|`;
    - `"movement"`: :math:`-\theta_i \sum g_i`, large for entries that training moves away from zero;
    - `"weight"`: :math:`|\theta_i|`;
    - `"nonzero"`: all entries that are not zero train, so that a pruned model keeps its zeros; tensors of fewer than
      two dimensions, such as biases, train whole;
    - `"random"`: a hash of the seed, the name and the index;
    - the path of a mask file, made by `sparsegrad calibrate`, or a safetensors file with a mask of zeros and ones by
      the name of each parameter; parameters that it lacks train as usual.

    The first three need gradients: those of the first `calibration_windows` windows of training, in which no optimizer
    steps. The next two are of the weights that the model has when its engine is made. A checkpoint contains the mask,
    one bit per entry: a resume does not choose again.

    Args:
        density: Share of entries (or rows) that train, in (0, 1]. At least one trains. `None` for `"nonzero"` and mask
            files, which say so themselves.
        score: `"fisher"`, `"gradient"`, `"movement"`, `"weight"`, `"nonzero"`, `"random"` or the path of a mask file.
        structure: What is chosen: an `"entry"`; or a `"row"`, a slice along dim 0, by the mean of its scores. Entries
            of a 1-D tensor are rows.
        scope: Whether the share is of all tensors together, `"global"`, or of each `"tensor"`.
        exclude_head: Whether the head trains as usual, which is everything behind the last block and its norm, a pooler
            included. A tensor that is also elsewhere, as a tied embedding, is no head. The head does not count for the
            share.
        exclude: Globs of further parameters that train as usual.
        calibration_windows: Number of windows whose gradients are summed, 32 by default.
        freeze: What the mask freezes: the `"weights"`; or `"gradients"`: weight decay and momentum still move the
            others, as in Child-Tuning and FISH, for those who reproduce these.
        seed: Seed of `"random"`; `None` means the seed of the run.

    Raises:
        ConfigurationError: At construction, for an argument outside its range or a mask file that cannot be read; when
            bound, for a model whose head cannot be found, a pattern without match, a mask file of another model, an
            embedding with `max_norm`; during training, if gradients that calibrate are under a loss scale (fp16: use a
            mask file), none is finite, or a resumed fit is behind its calibration and has no mask.

    Note:
        `"movement"` is the score of movement pruning (Sanh, Wolf and Rush 2020, https://arxiv.org/abs/2005.07683).
        Deviations: FISH pays for the classifier from the share, and masks a pooler. Child-Tuning-D (Xu et al. 2021,
        https://arxiv.org/abs/2109.05687) masks only tensors with `layer` in their name, which `exclude` can do, clips
        the gradient of each batch first, and takes more than the share where scores are equal.

    References:
        Y. L. Sung, V. Nair and C. Raffel, "Training Neural Networks with Fixed Sparse Masks", 2021,
        https://arxiv.org/abs/2111.09839, section 3.

    Example:
        >>> SparseMask(density=0.005, score="fisher")
        SparseMask(density=0.005, score='fisher')
    """

    phases: frozenset[Phase] = frozenset({"calibration", "gradient", "update"})

    def __init__(
        self,
        density: float | None = None,
        *,
        score: str = "fisher",
        structure: Literal["entry", "row"] = "entry",
        scope: Literal["global", "tensor"] = "global",
        exclude_head: bool = True,
        exclude: list[str] | str | None = None,
        calibration_windows: int | None = None,
        freeze: Literal["weights", "gradients"] = "weights",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        require_one_of("freeze", freeze, ("weights", "gradients"))
        require_one_of("exclude_head", exclude_head, (True, False))
        check_seed(seed)
        self._file = None if score in _SCORES else chosen_file(score, _SCORES)
        for name, value, allowed in (
            ("structure", structure, ("entry", "row")),
            ("scope", scope, ("global", "tensor")),
        ):
            require_one_of(name, value, allowed)
            if value != allowed[0] and (score == "nonzero" or self._file is not None):
                raise ConfigurationError(
                    f"Parameter `{name}` should be left out with `score = {score!r}`, which ranks nothing. "
                    f"Found `{name} = {value!r}`."
                )
        self.density = check_density(density, score, self._file)
        if calibration_windows is not None:
            require_integer("calibration_windows", calibration_windows, least=1)
            if score not in OF_GRADIENTS:
                raise ConfigurationError(
                    f"Parameter `calibration_windows` should be None with `score = {score!r}`, which needs no "
                    f"gradients. Found `calibration_windows = {calibration_windows}`."
                )
        self.calibration_windows = calibration_windows or (_WINDOWS if score in OF_GRADIENTS else 0)
        self.score, self.structure, self.scope, self.freeze, self.seed = score, structure, scope, freeze, seed
        self.exclude_head, self.exclude = exclude_head, exclude
        self._names: list[str] = []  # of the tensors of which a share trains
        self._asleep: frozenset[str] = frozenset()  # those that would be among them, but require no gradient
        self._scores: GradientScores | None = None
        self._drawn: int | None = None  # the seed of the random mask that is held
        self._is_chosen = self._is_guessed = False
        self._lost = False  # the sums of an interrupted calibration

    @property
    def seeds(self) -> Sequence[tuple[str, int | None]]:
        return (("SparseMask", self.seed),) if self.score == "random" else ()

    # ------------------------------------------------------------ before the first window
    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        super().bind(parameters, total_steps=total_steps)
        self._drawn, self._is_chosen, self._is_guessed, self._lost = None, False, False, False
        self._scores = GradientScores(self.score) if self.score in OF_GRADIENTS else None
        if self._file is not None:
            excluded = parameters.select("exclude", self.exclude)
            for name, mask in self._file.on(parameters):
                if name not in excluded:
                    self.hold_(name, mask)
            self._is_chosen = True
            return
        self._names = self._masked(parameters)
        parameters.refuse_moving(self, self._names)
        if self.score in OF_WEIGHTS:
            self._choose(0)

    def _masked(self, parameters: NamedParameters) -> list[str]:
        """Return the parameters of which a share trains."""
        usual = parameters.select("exclude", self.exclude)
        if self.exclude_head:
            try:
                usual |= find_layers(parameters).head
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"Parameter `exclude_head` should be False for a model whose blocks, and so its head, cannot be "
                    f"found; `exclude` can name its head. Found `exclude_head = True` and a "
                    f"`{type(parameters.model).__name__}`."
                ) from error
        below = [name for name in parameters if name not in usual]
        names = [name for name in below if parameters[name].requires_grad and parameters[name].numel()]
        self._asleep = frozenset(name for name in below if not parameters[name].requires_grad)
        if not names:
            raise ConfigurationError(
                f"Parameters `exclude` and `exclude_head` should leave something that trains. "
                f"Found `exclude = {self.exclude}`, `exclude_head = {self.exclude_head}`, which leave none."
            )
        return names

    # ------------------------------------------------------------ the choice
    def _choose(self, seed: int) -> None:
        """Choose what trains, by the scores of now; reads numbers on the host."""
        weights = [self.parameters[name].detach() for name in self._names]
        self._is_guessed = self.score != "random" and any(weight.is_meta for weight in weights)
        if self.score == "nonzero":
            for name, weight in zip(self._names, weights, strict=True):
                if weight.ndim > 1 and not weight.is_meta:
                    self.hold_(name, whole_of((shard_of(weight).local != 0).to(torch.uint8), weight).bool())
            if not self._is_guessed and all(n == self.parameters[name].numel() for name, n in self._trained.items()):
                warn(
                    f"`{self!r}` freezes nothing, as no weight is zero. Zeros of `torch.nn.utils.prune` are in the "
                    f"weights after its `remove`.",
                    stacklevel=2,
                )
        else:
            scores = [self._score(name, weight, seed) for name, weight in zip(self._names, weights, strict=True)]
            groups = [group_of(weight) for weight in weights]
            if self._scores is not None and not self._is_guessed:
                self._scores.require_some(scores, groups)
            parts = [[index] for index in range(len(scores))] if self.scope == "tensor" else [[*range(len(scores))]]
            for part in parts:
                self._hold_largest(part, scores, groups, weights)
        self._is_chosen, self._scores = True, None

    def _hold_largest(
        self, part: Sequence[int], scores: Sequence[Tensor], groups: Sequence[Any], weights: Sequence[Tensor]
    ) -> None:
        """Hold the mask of the largest scores of some tensors."""
        total = sum(self._units(weights[index]) for index in part)
        assert self.density is not None  # noqa: S101  # checked at construction
        count = max(1, round(self.density * total))
        selected = select_largest([scores[index] for index in part], count, groups=[groups[index] for index in part])
        for index, mask in zip(part, selected, strict=True):
            self.hold_(self._names[index], whole_of(mask.to(torch.uint8), weights[index]).bool())

    def _units(self, weight: Tensor) -> int:
        """Return the number of entries, or rows, of a whole weight."""
        return weight.shape[0] if self.structure == "row" and weight.ndim else weight.numel()

    def _score(self, name: str, weight: Tensor, seed: int) -> Tensor:
        """Return the scores of the entries or rows of a weight that this process holds."""
        shard = shard_of(weight)
        local, by_row = shard.local, self.structure == "row" and weight.ndim > 1
        if self.score == "random" or self._is_guessed:
            shape = local.shape[:1] if by_row else local.shape
            device = torch.device("cpu") if local.is_meta else local.device
            return random_scores(name, seed, shard.first_row if by_row else shard.start, shape, device)
        scores = local.float().abs() if self._scores is None else self._scores.of(name, local)
        return of_rows(scores) if by_row else scores

    def _draw(self, window: Window) -> None:
        """Choose at random, if the mask is not yet that of the seed."""
        seed = window.seed if self.seed is None else self.seed
        if self.score == "random" and self._drawn != seed:
            self._choose(seed)
            self._drawn = seed

    # ------------------------------------------------------------ windows
    def calibrates(self, window: Window) -> bool:
        return not self._is_chosen and window.step < self.calibration_windows

    def calibrate_(self, gradients: Gradients, window: Window) -> None:
        if self._lost:
            raise ConfigurationError(
                f"`{self!r}` should resume from a checkpoint written before its calibration or after it: on sharded "
                f"models one within it holds no scores. Found step {window.step} of {self.calibration_windows}."
            )
        assert self._scores is not None  # noqa: S101  # while it calibrates
        self._scores.add(gradients, self._names)
        if window.step == self.calibration_windows - 1:
            self._choose(0)

    def dropped(self, window: Window) -> frozenset[str]:
        self._draw(window)
        return super().dropped(window)

    def require_mask(self, gradients: Gradients, window: Window) -> None:
        if not self._is_chosen and self._scores is not None and not self._scores.is_empty:
            # no window had the last number: steps of several optimizers count one by one, or a policy left it out
            self._choose(0)
            gradients.lose(super().dropped(window), by=self)
        if not self._is_chosen:
            raise ConfigurationError(
                f"`{self!r}` should have a mask after {self.calibration_windows} calibration windows: resume from one "
                f"of its checkpoints, or name a mask file, `score=FILE`. Found none at step {window.step}."
            )
        if new := sorted(self._asleep & gradients.keys()):
            raise ConfigurationError(
                f"Parameters that `{self!r}` trains should require a gradient when its engine is made. "
                f"Found `{new[0]}`, which was made to require one later."
            )
        if self._is_guessed and not all(gradient.is_meta for gradient in gradients.values()):
            raise ConfigurationError(
                f"Weights should be there when the engine of `{self!r}` is made. Found them on the meta device then."
            )

    def before_step_(self, weights: Mapping[str, Tensor], window: Window) -> None:
        if self.freeze == "weights":
            super().before_step_(weights, window)

    def settings(self, window: Window) -> Mapping[str, float | Mapping[str, float]]:
        self._draw(window)
        if self._is_chosen or self.density is None:
            return super().settings(window)
        return {"density": dict.fromkeys(self._names, self.density)}

    @property
    def held_bytes(self) -> int:
        if self._is_chosen:
            return super().held_bytes
        weights = [shard_of(self.parameters[name].detach()).local for name in self._names]
        return sum(weight.numel() * (weight.element_size() + 1 + 4) for weight in weights)  # a copy, a mask, scores

    # ------------------------------------------------------------ state
    @property
    def _is_spread(self) -> bool:
        return any(is_spread(tensor) for tensor in self.parameters.tensors.values())

    def state_dict(self) -> dict[str, Any]:
        if self.score == "random":
            return {}  # drawn again
        described = {"class": "SparseMask", "density": self.density, "score": self.score}
        if self._is_chosen:
            masks = {name: {"bits": packed, "shape": list(shape)} for name, (packed, shape) in self._packed.items()}
            return {**described, "masks": masks}
        if self._scores is None or self._is_spread:
            return {**described, "lost": True}
        return {**described, **self._scores.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.score == "random":
            if state:
                warn(f"`{self!r}` draws its own mask. Found a state, of another score or strategy.", stacklevel=2)
            return
        if state.get("class") != "SparseMask":
            warn(f"`{self!r}` starts without a mask. Found the state of another strategy.", stacklevel=2)
            return
        before, now = ({name: each.get(name) for name in ("density", "score")} for each in (state, vars(self)))
        if "masks" in state:
            if before != now:
                warn(f"The mask of the checkpoint stays, that of {before}. Found {now}.", stacklevel=2)
            self._restore(state["masks"])
        elif self._scores is not None and "scores" in state and not self._is_spread:
            if before["score"] != self.score:
                raise ConfigurationError(
                    f"Parameter `score` should be {before['score']!r}, as in the checkpoint, which was written within "
                    f"its calibration. Found `score = {self.score!r}`."
                )
            self._scores.load_state_dict(state, self.parameters.tensors)
        else:
            self._lost = True

    def _restore(self, masks: Mapping[str, Any]) -> None:
        """Hold the masks of a state."""
        self.release_()
        try:
            for name in (each for each in self.parameters if each in masks.keys()):  # noqa: SIM118  # a list has no keys
                self.hold_(name, unpack_bits(masks[name]["bits"], masks[name]["shape"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"Parameter `state` should hold the bits of masks. Found {error}.") from error
        if unknown := sorted(masks.keys() - self.parameters.tensors.keys()):
            warn(f"Masks of parameters that the model lacks are left out. Found `{unknown[0]}`.", stacklevel=3)
        if new := sorted(set(self._names) - masks.keys()) if self.score != "nonzero" else []:
            warn(f"Parameters without a mask in the checkpoint train as usual. Found `{new[0]}`.", stacklevel=3)
        self._is_chosen, self._is_guessed, self._scores = True, False, None

    def __repr__(self) -> str:
        density = "" if self.density is None else f"density={self.density:g}, "
        return f"SparseMask({density}score={self.score!r})"
