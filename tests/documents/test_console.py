"""The sessions of the guides, typed into a shell: all of them train or load a pretrained model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, blocks, session
from tests.documents.output import same
from tests.strategies import ROOT

pytestmark = pytest.mark.long
COMMAND = f'#!/bin/sh\nexec "{sys.executable}" -m lightning_sparsegrad "$@"\n'


@pytest.mark.parametrize(
    "document", [document for document in DOCUMENTS if blocks(document, "console")], ids=lambda each: each.name
)
def test_the_commands_write_what_is_shown(document: Path, tmp_path: Path) -> None:
    programs, folder = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    folder.mkdir()
    (programs / "sparsegrad").write_text(COMMAND)
    (programs / "sparsegrad").chmod(0o755)
    search = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    python = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PL_"))}
    environment = {**alone, "PATH": search, "PYTHONPATH": python, "COLUMNS": "100"}
    for block in blocks(document, "console"):
        for command, shown in session(block):
            done = subprocess.run(
                ["/bin/sh", "-c", command],  # what a reader types
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            same(shown or "...", done.stdout)
