"""Records the results of a release; run in a checkout of it, into which this folder was copied.

`python -m tests.compatibility.record` rewrites `recorded/` in this folder. The current content is of release 0.1.
"""

import json
import lzma
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.compatibility import configs, fits, loop

RECORDED = Path(__file__).parent / "recorded"


def record_loops() -> None:
    """Record the plain loops; whether work is skipped, a loss scaled, or a run resumed, must not matter."""
    results = {}
    for name, where in product(loop.STRATEGIES, loop.WHERE):
        results[f"{name}, {where}"] = expected = loop.run(name, where)
        for skip, scale, resume in product((True, False), (None, 1024.0), (False, True)):
            other = loop.run(name, where, skip_dropped=skip, loss_scale=scale, resume=resume)
            if other != expected:
                raise RuntimeError(f"{name}, {where}: {skip=} {scale=} {resume=} makes a difference")
    write("loops", results)


def record_fits() -> None:
    """Record fits with the strategies of users, and checkpoints with what resuming them comes to."""
    results = {name: fits.fit(name, make()) for name, make in loop.STRATEGIES.items()}
    write("fits", results)
    results = {}
    with TemporaryDirectory() as folder:
        for name in (*fits.RESUMED, "command line"):
            kept = Path(folder) / name
            whole = resumable(name, folder=kept)
            path = kept / f"step={fits.STOPPED}.ckpt"
            (RECORDED / f"{name.replace(' ', '_')}.ckpt.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))
            results[name] = resumable(name, path=path)
            if results[name] != {**whole, "gradients": whole["gradients"][fits.STOPPED :]}:
                raise RuntimeError(f"{name}: resumed it comes to something else")
    write("resumed", results)


def record_configs() -> None:
    """Record where classes are, and the objects that configs stand for; how a config names classes must not matter."""
    write("paths", classes := configs.paths())
    names = {own.rpartition(".")[2]: own for own in classes}
    results = {}
    for path in configs.STRATEGIES:
        results[path.stem], *others = map(configs.strategy, configs.forms(path.read_text(), names))
        if any(other != results[path.stem] for other in others):
            raise RuntimeError(f"{path}: a name of a class makes a difference")
    write("strategies", results)
    with TemporaryDirectory() as folder:
        texts = configs.forms(configs.COMMAND.read_text(), names)
        command, *others = [configs.command(text, Path(folder)) for text in texts]
    if any(other != command for other in others):
        raise RuntimeError("a name of a class makes a difference to the command line")
    write("command", command)


def resumable(name: str, **arguments: Path) -> dict[str, Any]:
    """Fit what has a checkpoint."""
    if name in fits.RESUMED:
        return fits.fit(name, fits.RESUMED[name](), **arguments)
    return fits.command(**arguments)


def read(name: str) -> Any:
    """Return what was recorded."""
    return json.loads((RECORDED / f"{name}.json").read_text())


def write(name: str, results: object) -> None:
    (RECORDED / f"{name}.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    RECORDED.mkdir(exist_ok=True)
    record_configs()
    record_loops()
    record_fits()
