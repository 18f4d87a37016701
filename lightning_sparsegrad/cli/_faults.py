"""The fault in an error of jsonargparse, whose text is an indented tree with one branch per type of a union.

The rules match the English sentences of jsonargparse 4.53. Any other text is shown unchanged.
"""

import os
import re
from dataclasses import dataclass

from lightning_sparsegrad.untrusted._terminal import shown

DEBUG_VARIABLE = "SPARSEGRAD_DEBUG"
HINT = f"({DEBUG_VARIABLE}=1 shows the full text.)"

# lines that jsonargparse writes around a fault, and lines that it lists beside it
_CONTEXT = re.compile(r"Parser key \"(?P<key>[^\"]*)\".*:$|Problem with given class_path '(?P<owner>[^']*)':$|Errors:$")
_NOISE = re.compile(
    r"$|Does not validate|Subtypes:|Given value|Expected a path but"
    # a union of a list and an item: the branch that was not meant
    r"|Not a valid subclass|Subclass types expect|a class path \(str\)$|a dict with"
)
_OF_A_CALLABLE = re.compile(r"Type .* expects a function or a callable class: (.*?)\.?(?: Got value: .*)?$")


def debugging() -> bool:
    """Whether the user asks for full texts and tracebacks."""
    return os.environ.get(DEBUG_VARIABLE, "0") not in {"", "0"}


def as_line(text: str) -> str:
    """Return a text as one line for the terminal, with a hint how to see the full text."""
    return shown(" ".join(f"{text} {HINT}".split()))


def one_line(error: BaseException) -> str:
    """Return the reason that an error gives as one line for the terminal."""
    return as_line(reason_in(error))


def reason_in(error: BaseException) -> str:
    """Return the reason that an error gives, without the context that jsonargparse adds."""
    return Fault.find(str(error) or repr(error)).text


@dataclass(frozen=True)
class Fault:
    """The innermost line of an error of jsonargparse.

    Args:
        text: The reason.
        message: The whole text.
        key: The keys above the fault, joined by dots.
        owner: The class whose argument is wrong; empty if none is named.
    """

    text: str
    message: str
    key: str = ""
    owner: str = ""

    @classmethod
    def find(cls, message: str) -> "Fault":
        """Find the deepest line that is neither context nor noise; prefer one that does not begin with 'Expected'."""
        lines = [_indented(line) for line in message.splitlines()] or [(0, message)]
        if not any(_CONTEXT.match(text) or text.startswith("Does not validate") for _, text in lines):
            return cls(" ".join(text for _, text in lines), message)  # the whole text is the fault

        def depth(index: int) -> tuple[bool, int, bool]:
            indent, text = lines[index]
            return not _CONTEXT.match(text) and not _NOISE.match(text), indent, not text.startswith("Expected")

        index = max(range(len(lines)), key=depth)
        indent, text = lines[index]
        above: list[re.Match[str]] = []
        for other, line in reversed(lines[:index]):
            if other < indent and (match := _CONTEXT.match(line)):
                above.append(match)
                indent = other
        if above and above[0][0] == "Errors:" and text.startswith("Expected"):  # the last type of a union
            types = [line for _, line in lines[:index] if line.startswith("Subtypes: ")]
            values = [line for _, line in lines[index:] if line.startswith("Given value:")]
            if types and values:
                value = values[0].removeprefix("Given value:").strip()
                text = f"Expected a {types[-1].removeprefix('Subtypes: ')[1:-1]}. Got value: {value or repr(value)}"
        key = ".".join(match["key"] for match in reversed(above) if match["key"])
        owners = [*re.findall(r"class_path='([^']*)'", text), *(match["owner"] for match in above if match["owner"])]
        return cls(_OF_A_CALLABLE.sub(r"\1", text), message, key, owners[0] if owners else "")

    @property
    def at(self) -> str:
        """The position of the fault, as the end of a sentence."""
        return f" at `{self.key}`" if self.key else ""


def _indented(line: str) -> tuple[int, str]:
    text = line.lstrip(" ")
    indent = len(line) - len(text)
    return (indent + 2, text[2:].rstrip()) if text.startswith("- ") else (indent, text.rstrip())
