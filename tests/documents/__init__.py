"""The README and the guides: their blocks of code, which run as tests.

- `python`: run one after the other, in one namespace for each document; a `text` block behind one is what it prints.
- `console`: run by a shell, in one folder for each document; what follows a command is what it writes.
- `bash`: commands that take long or need a network; only their arguments are read.
- `yaml`: configs, of which each argument is read.
"""

import re
from pathlib import Path

from tests.strategies import ROOT

README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
DOCUMENTS = [README, *GUIDES]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(document: Path, *languages: str) -> list[str]:
    """Return the blocks of a document in some languages, in the order of the text."""
    return [code for language, code in _BLOCK.findall(document.read_text()) if language in languages]


def prose(document: Path) -> str:
    """Return the text of a document without its blocks."""
    return _BLOCK.sub("", document.read_text())


def python_blocks(document: Path) -> list[tuple[str, str | None]]:
    """Return the blocks of Python, each with what the document says that it prints, if it says anything."""
    text = document.read_text()
    shown = []
    for block in _BLOCK.finditer(text):
        if block[1] == "python":
            behind = _BLOCK.match(text[block.end() :].lstrip("\n"))
            shown.append((block[2], behind[2] if behind and behind[1] == "text" else None))
    return shown


def commands(document: Path) -> list[str]:
    """Return the lines of the `bash` blocks, without comments."""
    lines = "".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"(^|\s)#.*", "", line).strip())]


def files(document: Path) -> dict[str, str]:
    """Return the files that a document shows, by name: what a session writes, configs by their first line, classes."""
    shown = dict(re.findall(r"cat > (\S+) <<'END'\n(.*?)END$", _typed(document), flags=re.DOTALL | re.MULTILINE))
    shown |= {name: code for code in blocks(document, "yaml") for name in re.findall(r"\A# (\S+\.yaml)", code)}
    return shown | {"my_strategies.py": "\n".join(blocks(document, "python"))}


def _typed(document: Path) -> str:
    return "\n".join(command for block in blocks(document, "console") for command, _ in session(block))


def session(block: str) -> list[tuple[str, str]]:
    """Return the commands of a `console` block, each with what the document says that it writes."""
    steps: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        elif line.startswith("> ") and not steps[-1][1]:
            steps[-1] = f"{steps[-1][0]}\n{line[2:]}", ""
        else:
            steps[-1] = steps[-1][0], f"{steps[-1][1]}{line}\n"
    return steps
