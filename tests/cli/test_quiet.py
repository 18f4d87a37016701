"""The log of a command, without messages that no user can act on."""

import os
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest

from lightning_sparsegrad.cli._quiet import quiet
from tests.command_line import DROP, LABELLED, READER

ROOT = Path(__file__).parents[2]
TINY = [
    "fit",
    READER,
    *DROP,
    LABELLED,
    "--seed_everything=0",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
]
CHECKPOINT = "lightning_logs/version_0/checkpoints/epoch=0-step=4.ckpt"
COMMANDS = {
    "fit": TINY,
    "resume": ["fit", f"--ckpt_path={CHECKPOINT}", "--trainer.max_epochs=2"],
    "validate": ["validate", f"--ckpt_path={CHECKPOINT}"],
}
# one process for all commands; the last one with debugging on
PROGRAM = f"""
import os, sys, warnings

from lightning_sparsegrad.main import main

for name, arguments in {COMMANDS}.items():
    print(f"== {{name}}", file=sys.stderr)
    main(arguments)
print("== filters", len([each for each in warnings.filters if "LeafSpec" in str(each)]), sep="\\n", file=sys.stderr)
os.environ["SPARSEGRAD_DEBUG"] = "1"
print("== debug", file=sys.stderr)
main(["fit", "--ckpt_path={CHECKPOINT}", "--trainer.max_epochs=2"])
"""
SAYS = {
    "fit": ["Seed set to 0", "`Trainer.fit` stopped: `max_epochs=1` reached."],
    "resume": [
        "Seed set to 0",
        f"Restoring states from the checkpoint path at {CHECKPOINT}",
        f"Restored all states from the checkpoint at {CHECKPOINT}",
        "`Trainer.fit` stopped: `max_epochs=2` reached.",
    ],
    "validate": [
        "Seed set to 0",
        f"Restoring states from the checkpoint path at {CHECKPOINT}",
        f"Loaded model weights from the checkpoint at {CHECKPOINT}",
    ],
    "filters": ["0"],
}
LEFT_OUT = ["💡 Tip: ", "GPU available: ", "TPU available: ", "LeafSpec", "The dirpath has changed from"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    folder = tmp_path_factory.mktemp("quiet")
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, *sections = done.stderr.split("== ")
    advice = "does not have many workers"  # on machines of more cores
    lines = [section.splitlines() for section in sections]
    return {name: [line for line in rest if line and advice not in line] for name, *rest in lines}


@pytest.mark.parametrize("name", SAYS)
def test_a_command_says_what_a_user_needs(logs: dict[str, list[str]], name: str) -> None:
    assert logs[name] == SAYS[name]


def test_filters_of_the_user_count_before_those_of_the_command() -> None:
    notice = ("The dirpath has changed from a to b", UserWarning, "model_checkpoint.py", 1)
    module = "lightning.pytorch.callbacks.model_checkpoint"
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        with quiet(["fit"]):
            warnings.warn_explicit(*notice, module=module)
            warnings.warn_explicit(*notice, module="another")
        assert len(seen) == 1
        for action in ("always", "error"):
            warnings.simplefilter(action)
            with quiet(["fit"]), pytest.raises(UserWarning) if action == "error" else nullcontext():
                warnings.warn_explicit(*notice, module=module)
        assert len(seen) == 2


def test_with_debug_everything_is_logged(logs: dict[str, list[str]]) -> None:
    text = "\n".join(logs["debug"])
    assert [notice for notice in LEFT_OUT if notice not in text] == []
