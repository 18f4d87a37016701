"""The distance of each component from the pretrained weights during a fit."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_sparsegrad.callbacks._history import HistoryCallback
from lightning_sparsegrad.components import Component, ComponentSpec, NamedParameters, partition
from lightning_sparsegrad.engine.gradient_meter import check_meter
from lightning_sparsegrad.functional._torch import norms_of
from lightning_sparsegrad.functional.sharding import Group, group_of, is_spread, norms_over

_COLUMNS = ("rms", "cosine")


class PretrainedDistance(HistoryCallback):
    r"""Record every few optimizer steps how far each component is from the weights it started with.

    The file has a row per component and recorded step, with the columns `step` (optimizer steps done), `epoch`,
    `component`, `layer`, `rms`, :math:`\lVert w - w_0 \rVert / \sqrt{n}` over its :math:`n` entries, and `cosine`,
    :math:`w \cdot w_0 / (\lVert w \rVert \lVert w_0 \rVert)`, undefined for a component that was or is all zero. It
    records at the start, every `every_n_steps` steps, and at the end. A copy of the pretrained weights stays in memory.
    A resumed fit writes its own file, which includes the rows of the earlier steps, and measures from the weights with
    which the module is constructed: randomly initialised weights, such as a new head, need the seed of the first run.

    Args:
        every_n_steps: Number of optimizer steps between measurements.
        components: What a component is, see `ComponentNormClip`.
        path: The file, `.parquet` or `.csv`; by default `distances.parquet` in the folder of the run, see
            `ResultsTable`. No file is overwritten: if the name is taken, it gets a number.

    Raises:
        ConfigurationError: If `every_n_steps` is not positive or the file has another suffix.

    References:
        C. Yang and X. Ma, "Improving Stability of Fine-Tuning Pretrained Language Models via Component-Wise Gradient
        Norm Clipping", 2022, https://arxiv.org/abs/2210.10325, section 2, asks how fast components converge, as this
        callback does.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> distance = PretrainedDistance(every_n_steps=50, components="block")
        >>> trainer = Trainer(accelerator="cpu", callbacks=[distance], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self, every_n_steps: int = 100, *, components: ComponentSpec = "projection", path: str | None = None
    ) -> None:
        super().__init__("distances", _COLUMNS, path)
        check_meter(every_n_steps, components, parameter="every_n_steps")
        self._every, self._spec = every_n_steps, components
        self._pretrained: dict[str, Tensor] = {}
        self._parameters: NamedParameters | None = None
        self._components: list[Component] = []
        self._seen = -1

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the weights before a checkpoint is restored; a second fit of the Trainer continues the first."""
        goes_on = trainer.global_step and self._parameters is not None and self._parameters.model is pl_module
        if stage == "fit" and not goes_on:
            self._pretrained = {}
            self._copy(pl_module)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.strategy.restore_checkpoint_after_setup:
            self._copy(pl_module)

    def _copy(self, module: LightningModule) -> None:
        if any(True for _ in module.parameters()):  # otherwise `configure_model` creates them
            for name, parameter in NamedParameters(module).tensors.items():
                if name not in self._pretrained:
                    self._pretrained[name] = parameter.detach().clone()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parameters = NamedParameters(pl_module)
        self._components = partition(self._parameters, self._spec)
        late = [name for name in self._parameters if name not in self._pretrained]
        if late and trainer.ckpt_path:
            rank_zero_warn(
                f"`PretrainedDistance` measures from the weights of the checkpoint for what `configure_model` creates: "
                f"the pretrained weights of `{late[0]}` were never loaded."
            )
        self._copy(pl_module)
        for name, parameter in self._parameters.tensors.items():
            known = self._pretrained[name].to(parameter.device)
            if is_spread(parameter) and not is_spread(known):
                from torch.distributed.tensor import distribute_tensor

                spread: Any = parameter
                known = distribute_tensor(known, spread.device_mesh, spread.placements, src_data_rank=None)
            self._pretrained[name] = known
        self._history.start(trainer, self._parameters, self._components)
        self._seen = -1
        if trainer.global_step % self._every == 0:
            self._look(trainer)
        self._seen = trainer.global_step

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step // self._every > self._seen // self._every:  # several optimizers may have stepped
            self._look(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)
        super().on_train_end(trainer, pl_module)

    @torch.no_grad()
    def _look(self, trainer: Trainer) -> None:
        if self._parameters is None or trainer.global_step == self._seen:
            return
        self._seen = trainer.global_step
        now: dict[str, Tensor] = {name: parameter.detach() for name, parameter in self._parameters.tensors.items()}
        moved = self._norms(now, self._pretrained)
        length, before = self._norms(now), self._norms(self._pretrained)
        sizes = [sum(part.numel(now[part.parameter]) for part in component.parts) for component in self._components]
        roots = torch.tensor(sizes, dtype=moved.dtype, device="cpu").to(moved.device, non_blocking=True).sqrt()
        # by the law of cosines
        cosine = (length.square() + before.square() - moved.square()) / (2 * length * before)
        values = torch.stack([moved / roots, cosine.clamp(-1.0, 1.0)])
        self._history.add(self._seen, trainer.current_epoch, values)

    def _norms(self, tensors: dict[str, Tensor], others: dict[str, Tensor] | None = None) -> Tensor:
        """Return the norm of each component of the tensors, or of their differences from others."""
        piece_norms: list[Tensor] = []
        groups: list[Group | None] = []
        sizes = []
        for component in self._components:
            count = len(piece_norms)
            for part in component.parts:
                tensor = tensors[part.parameter]
                pieces = part.held(tensor)
                if others is not None:
                    pairs = zip(pieces, part.held(others[part.parameter]), strict=True)
                    pieces = [piece - other for piece, other in pairs]
                dtype = torch.float32 if tensor.device.type == "mps" else torch.float64  # mps has no float64
                piece_norms += norms_of(pieces, 2.0, dtype=dtype)
                groups += [group_of(tensor)] * len(pieces)
            sizes.append(len(piece_norms) - count)
        norms = torch.stack([norm.to(piece_norms[0].device) for norm in piece_norms])
        if any(group is not None for group in groups):
            return norms_over(norms, sizes, groups)
        return torch.stack(
            [torch.linalg.vector_norm(norms_of_component) for norms_of_component in torch.split(norms, sizes)]
        )
