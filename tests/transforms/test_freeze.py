"""What all freezes refuse."""

import pytest
import torch
from torch import nn

from lightning_sparsegrad import BiasOnly, ConfigurationError, Freeze, GradientEngine, GradualUnfreezing, HeadOnly
from tests.transforms.small import Small


@pytest.mark.parametrize("strategy", [HeadOnly(), BiasOnly(), GradualUnfreezing()], ids=repr)
def test_embeddings_that_move_rows_in_the_forward_pass_are_refused(strategy: Freeze):
    model = Small()
    model.embeddings.max_norm = 0.1
    with pytest.raises(ConfigurationError, match=r"`max_norm` of embeddings should be None .* for `embeddings.weight`"):
        GradientEngine(model, strategy, total_steps=4)


def test_frozen_rows_would_move_with_max_norm():
    rows = nn.Embedding(3, 2, max_norm=0.1)
    before = rows.weight.detach().clone()
    rows(torch.tensor([1]))
    assert not torch.equal(rows.weight, before)
