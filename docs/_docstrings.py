"""Docstrings, taken apart: the summary, the paragraphs behind it, the sections."""

import re
from dataclasses import dataclass
from inspect import getdoc

_SECTION = re.compile(r"\n\n(?=(?:Args|Attributes|Example|Note|Raises|References|Returns|Yields):\n)")


@dataclass(frozen=True)
class Docstring:
    """A docstring in Google's style.

    Attributes:
        text: The summary and the paragraphs behind it.
        sections: The text of each section, without indentation, by its name.
    """

    text: str
    sections: dict[str, str]

    @classmethod
    def of(cls, item: object) -> "Docstring":
        """Read the docstring of a class or a function."""
        text, *sections = _SECTION.split(getdoc(item) or "")
        named = (section.split(":\n", 1) for section in sections)
        return cls(text, {name: _dedented(lines) for name, lines in named})

    def only(self, *names: str) -> list[str]:
        """Return the lines of a docstring that has some of the sections and nothing else."""
        return [
            line
            for name in names
            if name in self.sections
            for line in (f"{name}:", *_indented(self.sections[name]).splitlines(), "")
        ]


def _dedented(lines: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in lines.splitlines())


def _indented(lines: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in lines.splitlines())
