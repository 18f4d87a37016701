"""Training of some rows alone: the embeddings of new tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_sparsegrad.components import NamedParameters
from lightning_sparsegrad.errors import ConfigurationError, require_integer, require_one_of
from lightning_sparsegrad.transforms.masks.fixed_mask import FixedMask

Rows = list[int | str] | Literal["added", "all"]


class TrainableRows(FixedMask):
    r"""Train only these rows of these tensors: of an embedding, the vectors of new tokens.

    All other rows of the tensors stay as they are, bit for bit: neither momentum nor weight decay moves them. Tied
    tensors are one, under any of their names; an output layer that is not tied needs a pattern of its own, or one that
    matches both.

    Args:
        rows: By glob on parameter names, the indices of the rows that train, from 0. A row trains if any pattern that
            matches its tensor lists it; `"all"` lists each. With a data module that has a tokenizer, a row can also
            be the text of a token; `"added"` stands for all tokens that were added to the tokenizer.
        others: What becomes of the other parameters of the model: they `"train"` as usual, or are `"frozen"`, a new
            head included, unless it trains by a pattern of its own: `{"*classifier*": "all"}`.

    Raises:
        ConfigurationError: At construction, for rows that are no list of indices or texts; when bound, for an index
            outside a tensor, a pattern without match, a tensor without rows, an embedding with `max_norm`, which moves
            rows in the forward pass, or a text or `"added"` without a tokenizer.

    Example:
        >>> import torch
        >>> from lightning_sparsegrad import GradientEngine
        >>> model = torch.nn.Embedding(4, 2)
        >>> engine = GradientEngine(model, TrainableRows({"weight": [3]}))
        >>> optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
        >>> engine.attach(optimizer)
        >>> before = model.weight.detach().clone()
        >>> with engine.window(step=0):
        ...     model(torch.tensor([0, 3])).sum().backward()
        ...     engine.apply_()
        >>> optimizer.step()
        >>> (model.weight == before).all(dim=1)
        tensor([ True,  True,  True, False])
    """

    def __init__(self, rows: dict[str, Rows], *, others: Literal["train", "frozen"] = "train") -> None:
        super().__init__()
        if not isinstance(rows, Mapping) or not rows:
            raise ConfigurationError(f"Parameter `rows` should map patterns to lists of rows. Found `rows = {rows!r}`.")
        for pattern, chosen in rows.items():
            _check_rows(pattern, chosen)
        require_one_of("others", others, ("train", "frozen"))
        self.rows, self.others = dict(rows), others

    @property
    def is_resolved(self) -> bool:
        """Whether all rows are indices."""
        return not any(
            chosen == "added" or (chosen != "all" and any(isinstance(row, str) for row in chosen))
            for chosen in self.rows.values()
        )

    def resolve(self, row_of: Callable[[str], int], added: Sequence[int]) -> None:
        """Replace texts of tokens and `"added"` by indices.

        Args:
            row_of: Returns the index of the token with a text.
            added: The indices of all tokens that were added.
        """
        for pattern, chosen in self.rows.items():
            if chosen == "added":
                self.rows[pattern] = list(added)
            elif chosen != "all":
                self.rows[pattern] = [row_of(row) if isinstance(row, str) else row for row in chosen]

    def bind(self, parameters: NamedParameters, *, total_steps: int | None) -> None:
        super().bind(parameters, total_steps=total_steps)
        if not self.is_resolved:
            raise ConfigurationError(
                f"Parameter `rows` should hold indices where no tokenizer is at hand: data modules, tasks and the "
                f"Trainer of transformers have one. Found `rows = {_shortened(self.rows)}`."
            )
        masks: dict[str, Tensor] = {}
        for pattern, chosen in self.rows.items():
            for name in sorted(parameters.select("rows", pattern)):
                if chosen == "all":
                    masks[name] = torch.ones(parameters[name].shape[:1], dtype=torch.bool)
                    continue
                mask = masks.setdefault(name, torch.zeros(_count_rows(name, parameters[name]), dtype=torch.bool))
                if (last := max(row for row in chosen if isinstance(row, int))) >= len(mask):
                    raise ConfigurationError(
                        f"Parameter `rows` should hold indices below {len(mask)}, the rows of `{name}`. Found `{last}`."
                    )
                mask[torch.tensor(chosen)] = True
        if self.others == "frozen":
            nothing = {name: torch.zeros(parameters[name].shape[:1], dtype=torch.bool) for name in parameters}
            masks = nothing | masks
        for name, mask in masks.items():
            self.hold_(name, mask)

    def __repr__(self) -> str:
        others = ", others='frozen'" if self.others == "frozen" else ""
        return f"TrainableRows({_shortened(self.rows)}{others})"


def _count_rows(name: str, weight: Tensor) -> int:
    if not weight.ndim:
        raise ConfigurationError(f"Parameter `rows` should name tensors with rows. Found `{name}`, a single number.")
    return weight.shape[0]


def _check_rows(pattern: str, chosen: Rows) -> None:
    if isinstance(chosen, str) and chosen in {"added", "all"}:
        return
    if not isinstance(chosen, Sequence) or isinstance(chosen, str) or not chosen:
        raise ConfigurationError(
            f"Parameter `rows` should hold for each pattern a list of rows, 'added' or 'all'. "
            f"Found `{pattern} = {chosen!r}`."
        )
    for row in chosen:
        if not isinstance(row, str):
            require_integer("rows", row, least=0)


def _shortened(rows: Mapping[str, Rows], most: int = 8) -> str:
    """Return rows as text, without those beyond the first of each pattern."""
    texts = {
        pattern: repr(chosen)
        if len(chosen) <= most
        else f"[{', '.join(map(repr, chosen[:most]))}, ... {len(chosen)} rows]"
        for pattern, chosen in rows.items()
    }
    return f"{{{', '.join(f'{pattern!r}: {text}' for pattern, text in texts.items())}}}"
