"""The lowest declared version of each dependency, for pip: `python -m tests.lowest > lowest.txt`.

    pip install -c lowest.txt -e ".[test]"

Each line is the lower bound of a requirement in `pyproject.toml`, extras included, so that the two cannot differ.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,-]+\])?(?:>=|==)(?P<floor>[\w.]+)(?:,<[\w.]+)?")


def lowest(project: dict[str, Any]) -> dict[str, str]:
    """Return the lower bound of each distribution.

    Args:
        project: The table `project` of a `pyproject.toml`.

    Raises:
        ValueError: If a requirement has no lower bound, or two that differ.
    """
    floors: dict[str, str] = {}
    extras = project.get("optional-dependencies", {})
    for requirement in [*project["dependencies"], *(each for extra in extras.values() for each in extra)]:
        if requirement.startswith(f"{project['name']}["):  # extras of its own
            continue
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise ValueError(f"`{requirement}` should have a lower bound, as in `name>=1.0`.")
        if floors.setdefault(match["name"], match["floor"]) != match["floor"]:
            raise ValueError(f"`{match['name']}` should have one lower bound. Found {requirement!r} as well.")
    return floors


if __name__ == "__main__":
    for name, floor in lowest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]).items():
        sys.stdout.write(f"{name}=={floor}\n")
