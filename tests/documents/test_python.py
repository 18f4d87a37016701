from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, python_blocks
from tests.documents.output import same


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "document", [document for document in DOCUMENTS if python_blocks(document)], ids=lambda each: each.name
)
def test_the_blocks_run_one_after_the_other_and_print_what_is_shown(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for code, shown in python_blocks(document):
        printed = StringIO()
        with redirect_stdout(printed):
            exec(compile(code, document.name, "exec"), names)  # noqa: S102  # the point of the test
        if shown is not None:
            same(shown, printed.getvalue())
