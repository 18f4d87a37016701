"""A setting of `datasets` that has no public way once the library is loaded.

It is checked against the installed version in `tests/private_names.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets


@contextmanager
def without_network() -> Iterator[None]:
    """Keep `datasets` from the network: it reports each local file it reads, and waits up to 3 s for an answer.

    Its public form is the environment of the process before it starts, which would keep models from the hub as well.
    datasets#6088 was closed without one; an argument of `load_dataset` would end this.
    """
    offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
