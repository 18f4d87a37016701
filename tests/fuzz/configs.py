"""Bad configs and command lines: every argument with every bad value, then texts and flags corrupted at random."""

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from tests.fuzz.cases import Case
from tests.fuzz.material import (
    KINDS,
    PLACEHOLDER,
    ROWS,
    arguments_of_strategies,
    good_arguments,
    paths_in,
    strategy,
    task,
    to_yaml,
)
from tests.fuzz.values import CHECKPOINTS, FLAGS, SPOILT_DEVICES, TASK_FLAGS, TRAINER, VALUES


class Configs:
    """The generator.

    Args:
        model: The folder of a model with its tokenizer.
        checkpoints: The files that arguments may name as checkpoints.
        seed: Of what is random.
    """

    def __init__(self, model: str, checkpoints: dict[str, bytes], seed: int) -> None:
        self._task, self._seed = task(model), seed
        self._files = {
            "task.yaml": to_yaml(self._task),
            "train.csv": ROWS.encode(),
            "nested.yaml": to_yaml({"fit": self._task}),
            "other.yaml": b"rate: 0.5\n",
            "empty.yaml": b"",
            "null.yaml": b"null\n",
            "list.yaml": b"- 1\n- 2\n",
            "bytes.yaml": bytes(range(256)),
            "folder/inside": b"",
            **checkpoints,
        }

    def systematic(self) -> Iterator[Case]:
        yield from self._strategies()
        yield from self._entries()
        yield from self._trainer()
        yield from self._command_lines()
        yield from self._texts()

    def at_random(self) -> Iterator[Case]:
        """Yield endless cases, each a good command line that is corrupted in one to three ways."""
        draw = random.Random(self._seed)  # noqa: S311  # no secret
        ways: tuple[Callable[[random.Random, list[str], dict[str, bytes]], None], ...] = (
            self._spoil_text, self._spoil_value, self._spoil_key, self._spoil_flag, self._spoil_overlay,
        )  # fmt: skip
        index = 0
        while True:
            arguments, files = ["fit", "--config=task.yaml"], dict(self._files)
            chosen = draw.choices(ways, k=draw.choice((1, 1, 2, 3)))
            for way in chosen:
                way(draw, arguments, files)
            yield Case(f"random {self._seed}/{index}", tuple(arguments), files)
            index += 1

    def _case(self, name: str, *arguments: str, says: tuple[str, ...] = (), **files: bytes) -> Case:
        named = {f"{key}.yaml": content for key, content in files.items()}
        return Case(name, arguments, {**self._files, **named}, says)

    # ------------------------------------------------------------ every place with every value
    def _strategies(self) -> Iterator[Case]:
        for kind, parameter in arguments_of_strategies():
            for value in VALUES:
                overlay = to_yaml(strategy(kind, **{parameter: PLACEHOLDER}), value)
                says = (parameter, "rate", "overlay.yaml")
                yield self._case(
                    f"{kind}.{parameter} = {value}",
                    "fit",
                    "--config=task.yaml",
                    "--config=overlay.yaml",
                    says=says,
                    overlay=overlay,
                )
            for name, spoilt in _misspelt(parameter):
                overlay = to_yaml(strategy(kind, **{spoilt: 0.5}))
                yield self._case(
                    f"{kind}.{parameter} {name}",
                    "fit",
                    "--config=task.yaml",
                    "--config=overlay.yaml",
                    says=(spoilt.removesuffix(".x"), kind),
                    overlay=overlay,
                )
        for kind in KINDS:
            for left_out in good_arguments(kind):
                rest = {key: value for key, value in good_arguments(kind).items() if key != left_out}
                spoilt_config = strategy(kind)
                _inner(spoilt_config, kind)["init_args"] = rest
                yield self._case(
                    f"{kind} without {left_out}",
                    "fit",
                    "--config=task.yaml",
                    "--config=o.yaml",
                    o=to_yaml(spoilt_config),
                )

    def _entries(self) -> Iterator[Case]:
        for path in paths_in(self._task):
            if path[-1] in ("seed_everything", "devices", "accelerator"):
                continue
            for value in VALUES:
                yield self._case(
                    f"{_dotted(path)} = {value}",
                    "fit",
                    "--config=task.yaml",
                    task=to_yaml(_replaced(self._task, path, PLACEHOLDER), value),
                )
            if isinstance(path[-1], str):
                yield self._case(
                    f"without {_dotted(path)}", "fit", "--config=task.yaml", task=to_yaml(_without(self._task, path))
                )
                for name, spoilt in _misspelt(path[-1]):
                    renamed = _renamed(self._task, path, spoilt)
                    yield self._case(f"{_dotted(path)} {name}", "fit", "--config=task.yaml", task=to_yaml(renamed))

    def _trainer(self) -> Iterator[Case]:
        for argument in TRAINER:
            for value in VALUES:
                yield self._case(
                    f"trainer.{argument} = {value}", "fit", "--config=task.yaml", f"--trainer.{argument}={value}"
                )
        for value in SPOILT_DEVICES:
            yield self._case(f"trainer.devices = {value}", "fit", "--config=task.yaml", f"--trainer.devices={value}")
        for value in VALUES:
            yield self._case(f"seed_everything = {value}", "fit", "--config=task.yaml", f"--seed_everything={value}")

    def _command_lines(self) -> Iterator[Case]:
        for arguments in (*FLAGS, *(["fit", "--config=task.yaml", *flags] for flags in TASK_FLAGS)):
            yield self._case(f"flags {' '.join(arguments)}", *arguments)
        for checkpoint in CHECKPOINTS:
            for subcommand in ("fit", "validate", "test", "predict"):
                yield self._case(
                    f"{subcommand} of {checkpoint!r}", subcommand, "--config=task.yaml", f"--ckpt_path={checkpoint}"
                )
            yield self._case(f"test of {checkpoint!r} alone", "test", f"--ckpt_path={checkpoint}")
            yield self._case(
                f"checkpoint {checkpoint!r} in a file",
                "fit",
                "--config=task.yaml",
                "--config=o.yaml",
                o=to_yaml({"ckpt_path": checkpoint}),
            )

    def _texts(self) -> Iterator[Case]:
        text = self._files["task.yaml"]
        line = b"trainer:\n"
        spoilt = {
            "tabs": text.replace(b"  ", b"\t"),
            "one tab": text.replace(b"\n  ", b"\n\t", 1),
            "a section twice": text + b"model:\n  class_path: SequenceClassification\n",
            "an empty section": text.replace(line, b"trainer2:\n") + b"trainer:\n",
            "anchors": text.replace(b"trainer:", b"trainer: &t") + b"data2: *t\n",
            "an unknown alias": text + b"x: *nothing\n",
            "a cycle": b"model: &m\n  class_path: *m\n",
            "a cycle in arguments": b"trainer: &t\n  callbacks: *t\n",
            "laughs": b"trainer:\n" + _laughs(9, b"  callbacks"),
            "laughs beside": text + _laughs(9, b"x"),
            "laughs in transforms": to_yaml(strategy("GradDrop")) + b"    \n" + _laughs(9, b"x"),
            "deep lists": b"model: " + b"[" * 3000 + b"]" * 3000,
            "deep dicts": b"model: " + b"{a: " * 3000 + b"1" + b"}" * 3000,
            "a deep block": b"".join(b" " * depth + b"a:\n" for depth in range(2000)),
            "many keys": b"".join(b"k%d: 1\n" % index for index in range(5000)),
            "long text": b"model: " + b"x" * 3_000_000,
            "two documents": text + b"---\n" + text,
            "a tag": b"!!python/object/apply:os.system ['touch pwned']\n",
            "a tag in front": b"model: !!python/object/new:os.system [touch pwned]\n" + text,
            "a module's tag": b"model: !!python/module:this\n",
            "a name's tag": b"model:\n  class_path: !!python/name:os.system\n",
            "merge keys": text + b"<<: {a: 1}\n",
            "utf-16": text.decode().encode("utf-16"),
            "latin-1": text + b"# caf\xe9\n",
            "bom": b"\xef\xbb\xbf" + text,
            "windows lines": text.replace(b"\n", b"\r\n"),
            "NUL": text.replace(b"model", b"mo\0del", 1),
            "json": b'{"model": {"class_path": "SequenceClassification"',
            "python": b"import os\nos.system('touch pwned')\n",
        }
        for name, content in spoilt.items():
            yield self._case(f"text with {name}", "fit", "--config=task.yaml", task=content)
            yield self._case(f"overlay with {name}", "fit", "--config=task.yaml", "--config=o.yaml", o=content)
            yield self._case(
                f"strategy file with {name}",
                "fit",
                "--config=task.yaml",
                "--model.gradient_transform=o.yaml",
                o=content,
            )
            yield self._case(f"main config with {name}", "--config=o.yaml", "fit", o=content)
        for end in range(0, len(text), 7):
            yield self._case(f"text cut at {end}", "fit", "--config=task.yaml", task=text[:end])

    # ------------------------------------------------------------ at random
    def _spoil_text(self, draw: random.Random, arguments: list[str], files: dict[str, bytes]) -> None:
        text = bytearray(files["task.yaml"])
        for _ in range(draw.choice((1, 2, 5))):
            start = draw.randrange(len(text) + 1)
            other = draw.randrange(len(text) + 1)
            how = draw.randrange(5)
            if how == 0:
                text[start : start + draw.choice((1, 5, 50))] = b""
            elif how == 1:
                text[start:start] = draw.randbytes(draw.choice((1, 3)))
            elif how == 2:
                text[start:start] = draw.choice(
                    (
                        b":",
                        b"- ",
                        b"\n",
                        b"  ",
                        b"\t",
                        b"{",
                        b"]",
                        b"&a ",
                        b"*a",
                        b"!!",
                        b"'",
                        b'"',
                        b"%",
                        b"|",
                        b"---\n",
                    )
                )
            elif how == 3:
                text[start:start] = text[other : other + 40]
            else:
                text = text[:start]
        files["task.yaml"] = bytes(text)

    def _spoil_value(self, draw: random.Random, arguments: list[str], files: dict[str, bytes]) -> None:
        path = draw.choice([p for p in paths_in(self._task) if p[-1] not in ("devices", "accelerator")])
        files["task.yaml"] = to_yaml(_replaced(self._task, path, PLACEHOLDER), draw.choice(VALUES))

    def _spoil_key(self, draw: random.Random, arguments: list[str], files: dict[str, bytes]) -> None:
        path = draw.choice([p for p in paths_in(self._task) if isinstance(p[-1], str)])
        files["task.yaml"] = to_yaml(
            _renamed(self._task, path, draw.choice([spoilt for _, spoilt in _misspelt(path[-1])]))
        )

    def _spoil_flag(self, draw: random.Random, arguments: list[str], files: dict[str, bytes]) -> None:
        path = [
            str(key) for key in draw.choice(list(paths_in(self._task))) if key != "init_args" or draw.random() < 0.2
        ]
        if path[-1] in ("devices", "accelerator"):
            return
        if draw.random() < 0.3:
            index = draw.randrange(len(path))
            path[index] = draw.choice([spoilt for _, spoilt in _misspelt(path[index])])
        flag = f"--{'.'.join(path)}{draw.choice(('=', '=', '=', '+=', ''))}"
        arguments.append(flag + draw.choice(VALUES) if flag.endswith("=") else flag)

    def _spoil_overlay(self, draw: random.Random, arguments: list[str], files: dict[str, bytes]) -> None:
        kind, parameter = draw.choice(arguments_of_strategies())
        name = f"overlay{len(files)}.yaml"
        files[name] = to_yaml(strategy(kind, **{parameter: PLACEHOLDER}), draw.choice(VALUES))
        arguments.append(f"--config={name}")


def _inner(overlay: dict[str, Any], kind: str) -> dict[str, Any]:
    named: dict[str, Any] = overlay["model"]["init_args"]["gradient_transform"]
    return named if named["class_path"] == kind else named["init_args"]["rate"]


def _misspelt(word: str) -> list[tuple[str, str]]:
    return [
        ("with a letter less", word[:-1]),
        ("with a letter twice", word[0] + word),
        ("in capitals", word.upper()),
        ("with a blank", f"{word} "),
        ("with a dot", f"{word}.x"),
        ("empty", ""),
        ("as a number", "7"),
    ]


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _parent(config: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    copied = deepcopy(config)
    parent = copied
    for key in path[:-1]:
        parent = parent[key]
    return copied, parent


def _replaced(config: Any, path: tuple[Any, ...], value: Any) -> Any:
    copied, parent = _parent(config, path)
    parent[path[-1]] = value
    return copied


def _without(config: Any, path: tuple[Any, ...]) -> Any:
    copied, parent = _parent(config, path)
    del parent[path[-1]]
    return copied


def _renamed(config: Any, path: tuple[Any, ...], name: str) -> Any:
    copied, parent = _parent(config, path)
    parent[name] = parent.pop(path[-1])
    return copied


def _laughs(levels: int, key: bytes) -> bytes:
    text = key + b"0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n"
    for level in range(1, levels):
        text += key + b"%d: &a%d [" % (level, level) + b", ".join([b"*a%d" % (level - 1)] * 9) + b"]\n"
    return text
