"""Start of the command line: its imports, the environment that it sets before torch, and the list of commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_sparsegrad.cli._overview import COMMANDS
from lightning_sparsegrad.cli._threads import MOST_PASSIVE, cores, shared_by
from lightning_sparsegrad.cli.sparsegrad_cli import SparseGradCLI
from lightning_sparsegrad.main import main

ROOT = Path(__file__).parents[2]
HEAVY = ["transformers", "datasets", "matplotlib", "scipy", "pandas", "pyarrow", "sklearn", "torch._dynamo", "sympy"]
CONFIGS = ["--config", "configs/quickstart.yaml", "--config", "configs/gradient/cgnc.yaml"]
# one process for all: each line adds the modules imported so far
PROGRAM = f"""
import io, json, os, sys
from contextlib import redirect_stdout
from importlib import import_module

seen, printed = {{}}, {{}}

def look(name):
    seen[name] = [each for each in {HEAVY} if each in sys.modules]

from lightning_sparsegrad.cli._threads import wait_passively
given = [{{name: "1"}} for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")]
for environment in given:
    wait_passively(environment)
printed["with settings of the user's"] = given
from lightning_sparsegrad.cli._printing import only_prints
from lightning_sparsegrad.main import main

def start(*arguments):
    sys.argv, sys.orig_argv = ["sparsegrad", *arguments], ["python", "sparsegrad", *arguments]
    return only_prints(arguments)

pipe, _ = os.pipe()
printed["only prints"] = {{
    "a file": start("fit", "--config", "cli.py", "--print_config=skip_null"),
    "a fit": start("fit", "--config", "cli.py"),
    "a pipe": start("fit", "--config", f"/dev/fd/{{pipe}}", "--print_config"),
    "a pipe behind a sign": start("fit", f"--config=/dev/fd/{{pipe}}", "--print_config"),
    "stdin": start("fit", "--config", "-", "--print_config"),
    "arguments of another process": start("fit", "--help") and only_prints(["fit", "-h"]),
}}

def command(*arguments):
    start(*arguments)
    with redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as end:
            assert not end.code, arguments
    printed[" ".join(arguments)] = out.getvalue()
    look(" ".join(arguments))

command("--help")
seen["torch"] = [name for name in ("torch", "lightning", "jsonargparse") if name in sys.modules]
command("fit", "--help")
command("fit", *{CONFIGS}, "--print_config")
printed["policy"] = os.environ.get("OMP_WAIT_POLICY")
for room in ("callbacks._exports", "modules._exports", "data", "metrics", "hub._tokenizers", "hub._network", "export"):
    import_module(f"lightning_sparsegrad.{{room}}")
    look(room)
print(json.dumps([seen, printed]))
"""


def start(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def started() -> tuple[dict[str, list[str]], dict[str, Any]]:
    done = start(PROGRAM)
    assert done.returncode == 0, done.stderr
    seen, printed = json.loads(done.stdout)
    return seen, printed


def test_what_only_prints_and_what_defines_classes_imports_nothing_heavy(
    started: tuple[dict[str, list[str]], dict[str, Any]],
) -> None:
    assert {name: heavy for name, heavy in started[0].items() if heavy} == {}


def test_classes_are_known_by_their_short_names_before_what_they_need_is_imported(
    started: tuple[dict[str, list[str]], dict[str, Any]],
) -> None:
    help_of_fit, config = started[1]["fit --help"], started[1][f"fit {' '.join(CONFIGS)} --print_config"]
    for name in ("SequenceClassification", "ValenceDataModule"):
        assert f"lightning_sparsegrad.{name}" in help_of_fit.replace("\n", "").replace(" ", "")
        assert f"class_path: lightning_sparsegrad.{name}\n" in config
    assert "class_path: lightning_sparsegrad.ComponentNormClip\n" in config


def test_threads_wait_asleep_where_they_are_few_and_the_user_has_set_nothing(
    started: tuple[dict[str, list[str]], dict[str, Any]],
) -> None:
    assert started[1]["policy"] == ("passive" if cores() <= MOST_PASSIVE else None)
    assert started[1]["with settings of the user's"] == [
        {"OMP_NUM_THREADS": "1"},
        {"GOMP_SPINCOUNT": "1"},
        {"KMP_BLOCKTIME": "1"},
    ]


def test_few_imports_are_tried_where_another_process_can_be_given_the_same(
    started: tuple[dict[str, list[str]], dict[str, Any]],
) -> None:
    assert [case for case, tried in started[1]["only prints"].items() if tried] == ["a file"]


def test_what_fails_for_want_of_an_import_is_run_again_with_all() -> None:
    done = start("""
import os, sys
if "SPARSEGRAD_WHOLE" in os.environ:
    import matplotlib
    print("whole")
    sys.exit(3)
from lightning_sparsegrad.cli._printing import print_only
print_only(lambda: sys.exit("said twice"))
""")
    assert (done.stdout, done.stderr, done.returncode) == ("whole\n", "", 3)


@pytest.mark.parametrize("jobs", range(1, 2 * cores() + 1))
def test_runs_at_a_time_ask_for_no_more_threads_than_there_are_cores(jobs: int) -> None:
    threads = int(shared_by(jobs, {})["OMP_NUM_THREADS"])
    assert threads == max(1, cores() // jobs)
    asleep = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"} if threads <= MOST_PASSIVE else {}
    assert shared_by(jobs, {}) == {"OMP_NUM_THREADS": str(threads), **asleep}
    assert shared_by(jobs, {"OMP_NUM_THREADS": "3"}) == {}
    assert shared_by(jobs, {"KMP_BLOCKTIME": "1"}) == {"OMP_NUM_THREADS": str(threads)}


def test_the_help_lists_the_commands_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(COMMANDS) == {*SparseGradCLI.subcommands(), "explain", "calibrate", "study", "export"}
    for flag in ("-h", "--help"):
        with pytest.raises(SystemExit, match=r"^0$"):
            main([flag])
        text = capsys.readouterr().out
        assert [name for name in COMMANDS if f"\n    {name} " not in text] == []


def test_a_command_that_there_is_not_is_answered_at_once_by_those_that_there_are() -> None:
    done = start("import sys; from lightning_sparsegrad.main import main; sys.argv[1:] = ['studdy']; main()")
    words = f"error: Commands are {', '.join(COMMANDS)}. Found `studdy`. Near matches: `study`.\n"
    assert (done.stdout, done.stderr, done.returncode) == ("", words, 2)
    done = start("""
import sys
from lightning_sparsegrad.main import main
try:
    main([])
finally:
    print("torch" in sys.modules)
""")
    assert done.stdout == "False\n"
    assert done.stderr == f"error: Commands are {', '.join(COMMANDS)}. Found none.\n"


def test_help_may_have_no_reader() -> None:
    done = start("""
import os, sys
from lightning_sparsegrad.main import main
reading, writing = os.pipe()
os.close(reading)
sys.stdout = os.fdopen(writing, "w", buffering=1)
try:
    main(["--help"])
except SystemExit as end:
    print(end.code, file=sys.stderr)
os._exit(0)
""")
    assert done.stderr == "0\n"


def test_ctrl_c_while_it_starts_ends_with_a_line() -> None:
    done = start("""
import sys
from importlib.abc import MetaPathFinder
class Finder(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "lightning":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from lightning_sparsegrad.main import main
main(["fit"])
""")
    assert (done.stdout, done.stderr, done.returncode) == ("", "stopped before `fit` was done\n", 130)
