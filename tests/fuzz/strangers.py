"""Files that a stranger might send: good ones of each kind, corrupted or with code that must not run."""

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from tests.fuzz import traps
from tests.fuzz.cases import MARK, Case
from tests.fuzz.material import ROWS, paths_in, spec, task, to_yaml

Kind = Callable[["Strangers"], Case]
_FIT = ("fit", "--config=task.yaml")
_ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\u202eevil\n"
_STATE = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step", "state_dict")


class Code:
    """An object whose pickle runs a command when it is read."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARK}",)


def _endless() -> Any:
    cycle: list[Any] = []
    cycle.append({"again": cycle})
    return cycle


def _deep(levels: int = 150) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _bomb() -> Any:
    value: Any = ["x"] * 10
    for _ in range(12):
        value = [value] * 10
    return value


ODD: list[Callable[[], Any]] = [
    lambda: None, lambda: 3, lambda: -1, lambda: 1e308, lambda: True, lambda: "x", lambda: _ESCAPES, list,
    dict, lambda: [1, 2], lambda: {"a": 1}, lambda: {3: 4}, lambda: {None: 1}, lambda: {(1, 2): 3},
    lambda: b"bytes", lambda: torch.zeros(3), lambda: torch.zeros(1).expand(10**12), _endless, _deep, _bomb,
    lambda: "../../../../etc/passwd", lambda: "http://127.0.0.1:9/x",
]  # fmt: skip


class Strangers:
    """A generator of endless cases.

    Args:
        model: The folder of a good model.
        checkpoint: A good checkpoint.
        seed: The same seed draws the same cases.
    """

    def __init__(self, model: str, checkpoint: bytes, seed: int) -> None:
        self.model, self.checkpoint = model, checkpoint
        self.draw = random.Random(seed)  # noqa: S311  # no secret

    def at_random(self) -> Iterator[Case]:
        number = 0
        while True:
            for kind in KINDS:
                case = kind(self)
                yield Case(f"{number} {case.name}", case.arguments, case.files, prepare=case.prepare)
                number += 1

    def _odd(self) -> Any:
        if self.draw.random() < 0.4:
            return copy.deepcopy(traps.NAMED[self.draw.choice(list(traps.NAMED))])
        return self.draw.choice(ODD)()

    def _spoil(self, value: Any, odd: Callable[[], Any]) -> str:
        """Put something odd into plain values, in place, and return its position."""
        path = self.draw.choice(list(paths_in(value)))
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = odd()
        return ".".join(map(str, path))

    def _case(self, name: str, *arguments: str, prepare: Callable[[Path], None] | None = None, **files: bytes) -> Case:
        common = {"task.yaml": to_yaml(task(self.model)), "train.csv": ROWS.encode(), traps.SCRIPT: _script()}
        named = {name.replace("_", ".", 1): content for name, content in files.items()}
        return Case(name, arguments, {**common, **named}, prepare=prepare)

    # ------------------------------------------------------------ kinds
    def config(self) -> Case:
        config = task(self.model)

        def plain() -> Any:
            named = copy.deepcopy(traps.NAMED[self.draw.choice(list(traps.NAMED))])
            wrapped = [named, [named], {"a": named}, json.dumps(named), named["class_path"], _ESCAPES]
            return self.draw.choice(wrapped)

        where = self._spoil(config, plain)
        return self._case(f"config {where}", "fit", "--config=o.yaml", o_yaml=to_yaml(config))

    def stored(self) -> Case:
        """A checkpoint with something odd in it."""
        content: dict[str, Any] = torch.load(BytesIO(self.checkpoint), weights_only=True)
        key = self.draw.choice([*content, *_STATE, "datamodule_hyper_parameters"])
        inner = content.get(key)
        if isinstance(inner, dict | list) and inner and self.draw.random() < 0.7:
            key = f"{key}.{self._spoil(inner, self._odd)}" if list(paths_in(inner)) else key
        else:
            content[key] = self._odd()
        buffer = BytesIO()
        torch.save(content, buffer)
        return self._with(f"checkpoint {key}", buffer.getvalue())

    def damaged(self) -> Case:
        """A checkpoint that is damaged, or not a checkpoint."""
        whole = bytearray(self.checkpoint)
        position = self.draw.randrange(len(whole))
        whole[position] ^= 1 << self.draw.randrange(8)
        cut, behind = bytes(whole[:position]), self.checkpoint + bytes(whole[:position])
        legacy, laden = BytesIO(), BytesIO()
        torch.save({"state_dict": {}}, legacy, _use_new_zipfile_serialization=False)
        torch.save({"state_dict": {}, "code": Code()}, laden)
        return self._with(
            f"damaged {position}", self.draw.choice([bytes(whole), cut, behind, legacy.getvalue(), laden.getvalue()])
        )

    def _with(self, name: str, checkpoint: bytes) -> Case:
        command = self.draw.choice(["fit", "test", "predict", "export"])
        if command == "export":
            return self._case(f"{name} export", "export", "--ckpt_path=x.ckpt", "--output=out", x_ckpt=checkpoint)
        name = f"{name} {command}"
        return (
            self._case(name, command, "--ckpt_path=x.ckpt", "--trainer.max_steps=2", x_ckpt=checkpoint)
            if (command == "fit")
            else self._case(
                name, command, "--config=data.yaml", "--ckpt_path=x.ckpt", data_yaml=_DATA, x_ckpt=checkpoint
            )
        )

    def folder(self) -> Case:
        """A model with something odd in one of its files, or with code."""
        files = {path.name: path.read_bytes() for path in Path(self.model).iterdir()}
        name = self.draw.choice([*files, "code", "pickle"])
        if name == "code":
            config = json.loads(files["config.json"])
            kinds = {"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M", "AutoTokenizer": "code.T"}
            files["config.json"] = json.dumps({**config, "auto_map": kinds, "model_type": "own"}).encode()
            files["code.py"] = _script()
        elif name == "pickle":
            buffer = BytesIO()
            torch.save({"weight": Code()}, buffer)
            del files["model.safetensors"]
            files["pytorch_model.bin"] = buffer.getvalue()
        elif name.endswith(".json"):
            content = json.loads(files[name])
            if isinstance(content, dict) and content:
                name += f" {self._spoil(content, lambda: self.draw.choice([None, -1, 'x', _ESCAPES, [], {}, 10**9]))}"
            files[name.partition(" ")[0]] = json.dumps(content).encode()
        else:
            files[name] = self._bytes(files[name])

        def prepare(folder: Path) -> None:
            (folder / "model").mkdir()
            for each, content in files.items():
                (folder / "model" / each).write_bytes(content)

        return self._case(f"model {name}", *_FIT, "--model.model_name_or_path=model", prepare=prepare)

    def data(self) -> Case:
        """Rows with control characters of a terminal, and folders with code beside them."""
        name = self.draw.choice(["rows", "header", "bytes", "folder"])
        rows = ROWS.replace("label", _ESCAPES.strip()) if name == "header" else ROWS.replace("good", _ESCAPES)
        content = self._bytes(ROWS.encode()) if name == "bytes" else rows.encode("utf-8", "surrogatepass")

        def prepare(folder: Path) -> None:
            (folder / "words").mkdir()
            (folder / "words" / "words.py").write_bytes(_script())
            (folder / "train.csv").write_bytes(content)

        flags = ("--data.dataset=words", "--data.data_files=null") if name == "folder" else ()
        return self._case(f"data {name}", *_FIT, *flags, prepare=prepare)

    def _bytes(self, content: bytes) -> bytes:
        """Change bytes; in a file of weights, those of its header."""
        spoilt = bytearray(content)
        if self.draw.random() < 0.5:
            spoilt[:8] = self.draw.choice([0, 1, len(content), 2**40, 2**64 - 1]).to_bytes(8, "little")
        else:
            position = self.draw.randrange(min(len(spoilt), 2000))
            spoilt[position : position + 4] = self.draw.choice([b"9999", b"\0\0\0\0", b'"}},', b"\xff\xfe\x1b["])
        return bytes(spoilt)


KINDS: tuple[Kind, ...] = (
    Strangers.config, Strangers.stored, Strangers.damaged, Strangers.folder, Strangers.data, Strangers.stored,
)  # fmt: skip
_DATA = to_yaml(
    {"data": spec("TextDataModule", data_files={"test": "train.csv", "predict": "train.csv"}, text_columns="text")}
)


def _script() -> bytes:
    return f"open({MARK!r}, 'w')\n".encode()
