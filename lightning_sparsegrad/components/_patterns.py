"""Globs on names; a pattern that matches nothing is an error that lists near matches."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from lightning_sparsegrad.errors import ConfigurationError


def matching(pattern: str, names: Iterable[str], *, parameter: str) -> list[str]:
    """Return the names a glob matches, in their order.

    Args:
        pattern: Glob on the whole name; `*` also matches dots.
        names: Where to look.
        parameter: The parameter the pattern was given for, named in the error.

    Raises:
        ConfigurationError: If nothing matches.
    """
    names = list(names)
    matches = [name for name in names if fnmatchcase(name, pattern)]
    if not matches:
        raise ConfigurationError(
            f"Parameter `{parameter}` should hold patterns that match a parameter name. "
            f"Found `{pattern}`, which matches none of {len(names)}.{_near(pattern, names)}"
        )
    return matches


def as_patterns(value: str | Sequence[str] | None) -> list[str]:
    """Return a list of patterns, given as one pattern, several, or none."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _near(pattern: str, names: Sequence[str]) -> str:
    """List names of which any section resembles the pattern without its wildcards."""
    core = pattern.strip("*?.")
    depth = core.count(".") + 1
    pieces: dict[str, str] = {}
    for name in names:
        steps = name.split(".")
        for start in range(max(1, len(steps) - depth + 1)):
            pieces.setdefault(".".join(steps[start : start + depth]), name)
    close = get_close_matches(core, pieces, n=3, cutoff=0.5)
    examples = list(dict.fromkeys(pieces[match] for match in close)) or list(names[:3])
    return f" Near matches: {', '.join(f'`{name}`' for name in examples)}."
