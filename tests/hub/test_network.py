"""The library without a reachable hub."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from lightning_sparsegrad import ConfigurationError, Identity, SequenceClassification, TextDataModule
from lightning_sparsegrad.hub._network import how_without, is_unreachable
from tests.cases import cases

MODEL = "nobody/no-such-model"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let no host name be resolved, and return the names requested."""
    asked: list[Any] = []

    def refuse(host: Any, *_: Any, **__: Any) -> None:
        asked.append(host)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    return asked


@pytest.mark.parametrize(
    "load",
    [
        lambda: SequenceClassification(MODEL, 2, Identity()),  # looks for the model, and for its padding
        lambda: TextDataModule(data_files={}, dataset="nobody/data", tokenizer=MODEL).tokenizer,
        lambda: TextDataModule("nobody/no-such-data").num_labels,
    ],
    ids=["model", "tokenizer", "data"],
)
def test_a_line_comes_without_retries_and_says_what_to_do(load: Callable[[], Any], no_network: list[Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert set(no_network) == {"huggingface.co"}
    assert len(no_network) <= 3  # the hub's own client, which tries again for 23 seconds, asks more than twice as often
    text = str(caught.value)
    assert "Without a network pass a folder: `hf download " in text
    assert "--local-dir FOLDER nobody/no-such-" in text
    assert "\n" not in text


@pytest.mark.usefixtures("no_network")
def test_a_folder_needs_no_hub(tmp_path: Any) -> None:
    assert is_unreachable(MODEL, "model")
    assert is_unreachable(MODEL, "dataset")
    assert not is_unreachable(str(tmp_path), "model")


@cases("name", ["./models", "/tmp/x", "~/x", "package:a/b"])  # noqa: S108
def test_what_is_no_name_on_a_hub_gets_no_advice_to_download_it(name: str) -> None:
    assert how_without(name, "model") == ""
