"""Bad arguments of every data module, task and callback that the package exports, with files of every format."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Callback

from lightning_sparsegrad.data import TokenizedDataModule
from lightning_sparsegrad.modules import TransformerTask
from tests.fuzz.cases import Case
from tests.fuzz.material import PLACEHOLDER, SHORT, spec, to_yaml
from tests.fuzz.recipes import RECIPES, Files, Recipe, exported, parameters_of
from tests.fuzz.values import ARGUMENTS, VALUES

COMMANDS = ("fit", "fit", "fit", "validate", "test", "predict")
NAMES = ("rows[1]", "r*s", "rows::x", "~rows", "$HOME", "-rows", "r ws", "r\nws", "{rows}", "é")
_LENGTH = 32  # tokens
_BYTES = (b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\t", b"{", b"]", b"null", b"NaN", b"#", b" ")


class Tasks:
    """The generator.

    Args:
        model: The folder of an encoder with its tokenizer, which reads the words of `tests.hub`.
        seed: Of what is random.
    """

    def __init__(self, model: str, seed: int) -> None:
        self._model, self._seed = model, seed
        self._files: dict[tuple[str, str], Files] = {}
        self.data, self.tasks = exported(TokenizedDataModule), exported(TransformerTask)
        self.callbacks = exported(Callback)

    def good(self) -> Iterator[Case]:
        """Yield a good fit on each data module, in each format."""
        for name, recipe in RECIPES.items():
            for extension in recipe.formats:
                yield self._case(f"good {name} {extension}", "fit", self._config(name), name, extension)

    def systematic(self) -> Iterator[Case]:
        """Yield each argument of each class with each bad value."""
        for name, recipe in RECIPES.items():
            for parameter in parameters_of(self.data[name]):
                for value in ARGUMENTS:
                    config = self._config(name)
                    config["data"]["init_args"][parameter] = PLACEHOLDER
                    yield self._case(f"{name}.{parameter} = {value}", "fit", config, name, recipe.formats[0], value)
        for task, kind in self.tasks.items():
            name = next((name for name, recipe in RECIPES.items() if recipe.task == task), "TextDataModule")
            for parameter in parameters_of(kind):
                for value in ARGUMENTS:
                    config = self._config(name)
                    config["model"] = spec(task, **{**config["model"]["init_args"], parameter: PLACEHOLDER})
                    extension = RECIPES[name].formats[0]
                    yield self._case(f"{task}.{parameter} = {value}", "fit", config, name, extension, value)
        for callback, kind in self.callbacks.items():
            for parameter in parameters_of(kind):
                for value in ARGUMENTS:
                    config = self._config("TextDataModule")
                    config["trainer"]["callbacks"] = [spec(callback, **{parameter: PLACEHOLDER})]
                    yield self._case(f"{callback}.{parameter} = {value}", "fit", config, "TextDataModule", "csv", value)

    def at_random(self) -> Iterator[Case]:
        """Yield endless cases corrupted in up to three ways: arguments, the file, and its name."""
        draw, index = random.Random(self._seed), 0  # noqa: S311  # no secret
        while True:
            name = draw.choice(list(RECIPES))
            recipe = RECIPES[name]
            extension = draw.choice(recipe.formats)
            config, value = self._config(name), draw.choice((*VALUES, *ARGUMENTS, *ARGUMENTS))
            if draw.random() < 0.7:
                self._spoil(draw, config, name, recipe)
            files = dict(self._files_of(name, extension))
            if files and draw.random() < 0.4:
                path = draw.choice(list(files))
                files[path] = _broken(draw, files[path])
            stem = draw.choice(NAMES) if draw.random() < 0.3 else "rows"
            command = draw.choice(COMMANDS)
            yield self._case(f"random task {self._seed}/{index}", command, config, name, extension, value, files, stem)
            index += 1

    def _spoil(self, draw: random.Random, config: dict[str, Any], name: str, recipe: Recipe) -> None:
        where = draw.choice(("data", "data", "model", "callback"))
        if where == "callback":
            callback = draw.choice(list(self.callbacks))
            parameters = parameters_of(self.callbacks[callback])
            given = {draw.choice(parameters): PLACEHOLDER} if parameters else {}
            config["trainer"]["callbacks"] = [spec(callback, **given)]
            return
        kind = self.data[name] if where == "data" else self.tasks[recipe.task]
        config[where]["init_args"][draw.choice(parameters_of(kind))] = PLACEHOLDER

    def _config(self, name: str) -> dict[str, Any]:
        recipe = RECIPES[name]
        arguments: Mapping[str, Any] = {"max_length": _LENGTH, "batch_size": 4, **recipe.arguments}
        return {
            "seed_everything": 0,
            "model": spec(recipe.task, model_name_or_path=self._model, gradient_transform=spec("GradDrop", rate=0.5)),
            "data": spec(name, **arguments),
            "trainer": {
                **SHORT,
                "limit_val_batches": 1,
                "limit_test_batches": 1,
                "limit_predict_batches": 1,
            },
        }

    def _files_of(self, name: str, extension: str) -> Files:
        if (name, extension) not in self._files:
            self._files[name, extension] = RECIPES[name].files(extension)
        return self._files[name, extension]

    def _case(
        self,
        title: str,
        command: str,
        config: dict[str, Any],
        name: str,
        extension: str,
        value: str = "",
        files: Files | None = None,
        stem: str = "rows",
    ) -> Case:
        files = self._files_of(name, extension) if files is None else files
        old, new = f"rows.{extension}", f"{stem}.{extension}"
        renamed = {new if path == old else path: content for path, content in files.items()}
        text = to_yaml(_with_file(config, new), value)
        return Case(title, (command, "--config=task.yaml"), {"task.yaml": text, **renamed}, finite=command == "fit")


def _with_file(config: Any, file: str) -> Any:
    if isinstance(config, dict):
        return {key: _with_file(value, file) for key, value in config.items()}
    return file if config == "{file}" else config


def _broken(draw: random.Random, content: bytes) -> bytes:
    text = bytearray(content)
    for _ in range(draw.choice((1, 1, 3))):
        start, how = draw.randrange(len(text) + 1), draw.randrange(4)
        if how == 0:
            text = text[:start]
        elif how == 1:
            text[start : start + draw.choice((1, 4, 30))] = b""
        elif how == 2:
            text[start:start] = draw.choice(_BYTES)
        else:
            text[start : start + 1] = draw.randbytes(1)
    return bytes(text)
