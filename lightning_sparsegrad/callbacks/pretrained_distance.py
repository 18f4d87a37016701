"""How far fine-tuning moves each component from the pretrained weights."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_sparsegrad.callbacks.history import HistoryCallback
from lightning_sparsegrad.components import Component, ComponentSpec, NamedParameters, partition
from lightning_sparsegrad.functional.sharding import Group, group_of, norms_over
from lightning_sparsegrad.meter import check_meter

_COLUMNS = ("rms", "cosine")


class PretrainedDistance(HistoryCallback):
    r"""Record every few optimizer steps how far each component is from the weights it started with.

    The file has a row for each component and step it looked at, with the columns `step` (optimizer steps done),
    `epoch`, `component`, `layer`, `rms`, :math:`\lVert w - w_0 \rVert / \sqrt{n}` over its :math:`n` entries, and
    `cosine`, :math:`w \cdot w_0 / (\lVert w \rVert \lVert w_0 \rVert)`, undefined for a component that was or is all
    zero. It looks at the start, every `every_n_steps` steps, and at the end. A copy of the pretrained weights stays in
    memory. A resumed fit goes on with the file, and measures from the weights that the first one started with.

    Args:
        every_n_steps: Look after every so many optimizer steps.
        components: What is measured by itself, see `ComponentNormClip`.
        path: The file, `.parquet` or `.csv`; by default `distances.parquet` beside the logs.

    Raises:
        ConfigurationError: If `every_n_steps` is not positive or the file is of another kind.

    References:
        C. Yang and X. Ma, "Improving Stability of Fine-Tuning Pretrained Language Models via Component-Wise Gradient
        Norm Clipping", 2022, https://arxiv.org/abs/2210.10325, section 2, asks how fast components converge; so does
        this.

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Copy the weights, before a checkpoint is restored."""
        if stage == "fit":
            named = NamedParameters(pl_module).tensors
            self._pretrained = {name: parameter.detach().clone() for name, parameter in named.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parameters = NamedParameters(pl_module)
        self._components = partition(self._parameters, self._spec)
        for name, parameter in self._parameters.tensors.items():
            known = self._pretrained.get(name, parameter.detach().clone())  # none of what `configure_model` made
            known = known.to(parameter.device)
            if isinstance(parameter, DTensor) and not isinstance(known, DTensor):
                known = distribute_tensor(known, parameter.device_mesh, parameter.placements, src_data_rank=None)
            self._pretrained[name] = known
        self._history.start(trainer, self._parameters, self._components)
        self._seen = -1
        if trainer.global_step == 0:
            self._look(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        if trainer.global_step % self._every == 0:
            self._look(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)
        super().on_train_end(trainer, pl_module)
        self._pretrained = {}

    @torch.no_grad()
    def _look(self, trainer: Trainer) -> None:
        if self._parameters is None or trainer.global_step == self._seen:
            return
        self._seen = trainer.global_step
        now: dict[str, Tensor] = {name: parameter.detach() for name, parameter in self._parameters.tensors.items()}
        difference = {name: tensor - self._pretrained[name] for name, tensor in now.items()}
        moved, length, before = (self._norms(tensors) for tensors in (difference, now, self._pretrained))
        sizes = [sum(part.numel(now[part.parameter]) for part in component.parts) for component in self._components]
        roots = torch.tensor(sizes, dtype=moved.dtype, device="cpu").to(moved.device, non_blocking=True).sqrt()
        # by the law of cosines
        cosine = (length.square() + before.square() - moved.square()) / (2 * length * before)
        values = torch.stack([moved / roots, cosine.clamp(-1.0, 1.0)])
        self._history.add(self._seen, trainer.current_epoch, values)

    def _norms(self, tensors: dict[str, Tensor]) -> Tensor:
        held: list[tuple[Tensor, Group | None]] = []
        sizes = []
        for component in self._components:
            pieces = [
                (piece, group_of(tensors[part.parameter]))
                for part in component.parts
                for piece in part.held(tensors[part.parameter])
            ]
            held += pieces
            sizes.append(len(pieces))
        pieces_held, groups = zip(*held, strict=True)
        device = pieces_held[0].device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which has no wider one
        norms = torch.stack([norm.to(device) for norm in torch._foreach_norm(list(pieces_held), 2.0, dtype=dtype)])
        if any(group is not None for group in groups):
            return norms_over(norms, sizes, groups)
        return torch.stack([torch.linalg.vector_norm(of_one) for of_one in torch.split(norms, sizes)])
