"""What happens where no hub can be reached."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from lightning_sparsegrad import ConfigurationError, Identity, SequenceClassification, TextDataModule
from lightning_sparsegrad.hub._network import how_without, is_unreachable

MODEL = "nobody/no-such-model"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let no name be resolved; return those that were asked for."""
    asked: list[Any] = []

    def refuse(host: Any, *_: Any, **__: Any) -> None:
        asked.append(host)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    return asked


@pytest.mark.parametrize(
    ("load", "looks"),
    [
        (lambda: SequenceClassification(MODEL, 2, Identity()), 2),  # for the model, and for its padding
        (lambda: TextDataModule(data_files={}, dataset="nobody/data", tokenizer=MODEL).tokenizer, 1),
        (lambda: TextDataModule("nobody/no-such-data").num_labels, 1),
    ],
    ids=["model", "tokenizer", "data"],
)
def test_a_line_comes_without_retries_and_says_what_to_do(
    load: Callable[[], Any], looks: int, no_network: list[Any]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert no_network == ["huggingface.co"] * looks  # the hub's own client would ask again and again, for 23 seconds
    text = str(caught.value)
    assert "Without a network pass a folder: `hf download " in text
    assert "--local-dir FOLDER nobody/no-such-" in text
    assert "\n" not in text


@pytest.mark.usefixtures("no_network")
def test_a_folder_needs_no_hub(tmp_path: Any) -> None:
    assert is_unreachable(MODEL, "model")
    assert is_unreachable(MODEL, "dataset")
    assert not is_unreachable(str(tmp_path), "model")


@pytest.mark.parametrize("name", ["./models", "/tmp/x", "~/x", "package:a/b"])  # noqa: S108
def test_what_is_no_name_on_a_hub_gets_no_advice_to_download_it(name: str) -> None:
    assert how_without(name, "model") == ""
