"""Models and data of the Hugging Face hub, and what to do where it cannot be reached."""

from pathlib import Path
from typing import Final, Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

Kind = Literal["model", "dataset"]

STRANGERS: Final = {"trust_remote_code": False}
"""How whatever may be a stranger's is loaded: left to itself, `transformers` asks on the terminal whether to run it."""

_TIMEOUT = 10.0  # seconds


def is_unreachable(name: str, kind: Kind) -> bool:
    """Return whether a name has to be looked up on a hub that does not answer: its own client would retry for long."""
    if Path(name).exists():
        return False
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=_TIMEOUT)
    except (HfHubHTTPError, HFValidationError):
        return False  # answered, or never asked: who loads it says what is wrong
    except Exception:  # the HTTP client's errors, whose classes differ between versions of the hub's library
        return True
    return False


def how_without(name: str, kind: Kind) -> str:
    """Return a sentence on how to do without the hub; none for what can be no name there."""
    options = "--repo-type dataset " if kind == "dataset" else ""
    if Path(name).exists() or ":" in name or name.startswith((".", "/", "~")):
        return ""
    return (
        f" Without a network pass a folder: `hf download {options}--local-dir FOLDER {name}` makes one where there is "
        f"one."
    )
