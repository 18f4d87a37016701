"""Prints the numbers of every golden row, or of the strategies named."""

import sys

from tests.transforms.golden import GOLDEN, weighted_sum
from tests.transforms.small import run

unknown = set(sys.argv[1:]) - {type(row.transform).__name__ for row in GOLDEN}
if unknown:
    sys.exit(f"There is no golden row of {', '.join(sorted(unknown))}: add a file to tests/transforms/golden.")

for row in GOLDEN:
    if len(sys.argv) == 1 or type(row.transform).__name__ in sys.argv:
        done = run(row.transform).values()
        sums = ", ".join(f"{weighted_sum(gradients):.9g}" for gradients in done)
        dropped = tuple(sum(gradient is None for gradient in gradients.values()) for gradients in done)
        print(f"{row}: ({sums}), {dropped}")  # noqa: T201
