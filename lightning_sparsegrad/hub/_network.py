"""Access to the Hugging Face hub, and advice if it cannot be reached."""

from pathlib import Path
from typing import Final, Literal

Kind = Literal["model", "dataset"]

STRANGERS: Final = {"trust_remote_code": False}
"""Options to load a stranger's files: by default, `transformers` asks on the terminal whether to run their code."""

_TIMEOUT = 10.0  # seconds


def is_unreachable(name: str, kind: Kind) -> bool:
    """Return whether a name is on a hub that does not answer, where the hub's client would retry for long."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if Path(name).exists():
        return False
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=_TIMEOUT)
    except (HfHubHTTPError, HFValidationError):
        return False  # it answers, or is not needed: loading reports what is wrong
    except Exception:  # errors of the HTTP client, whose classes differ between versions of the hub's library
        return True
    return False


def how_without(name: str, kind: Kind) -> str:
    """Return advice on working without the hub; nothing for a name that the hub cannot have."""
    options = "--repo-type dataset " if kind == "dataset" else ""
    if Path(name).exists() or ":" in name or name.startswith((".", "/", "~")):
        return ""
    return (
        f" Without a network pass a folder: `hf download {options}--local-dir FOLDER {name}` makes one where there is "
        f"one."
    )
