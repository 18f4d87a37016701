"""A private setting of `datasets` that turns its network off after the import.

`tests/private_names.py` checks it against the installed version.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_network() -> Iterator[None]:
    """Keep `datasets` off the network, to which it reports each local file that it reads, waiting up to 3 s.

    The public switch is an environment variable read at the start of the process, which would block models from the hub
    as well. datasets#6088 was closed without another; an argument of `load_dataset` would end this.
    """
    import datasets  # takes a second

    offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
