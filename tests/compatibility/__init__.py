"""Strategies, configs and checkpoints of 0.1, and the results of 0.1.

Everything here is written with names that 0.1 had, so that a checkout of 0.1 can record it: see `record`.
"""

import warnings

with warnings.catch_warnings():  # some names of 0.1 are old names now, and say so
    warnings.simplefilter("ignore", DeprecationWarning)
    from tests.compatibility import strategies as strategies
