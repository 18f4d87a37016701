"""Update transforms: strategies that act on what the optimizer did."""
