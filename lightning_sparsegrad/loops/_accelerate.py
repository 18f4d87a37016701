"""Private names of Accelerate that its adapter needs.

There are no public equivalents. Each name is checked against the installed version in `tests/private_names.py`.
"""


def is_prepared(value: object) -> bool:
    """Return whether Accelerate has prepared a model or an optimizer.

    Without it a model that was given by mistake without its wrapper would be skipped in ways that DDP does not allow.
    No upstream issue.
    """
    return bool(getattr(value, "_is_accelerate_prepared", False))
