"""Update transforms: strategies that act on the updates of the optimizer."""
