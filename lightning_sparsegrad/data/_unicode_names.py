"""Names and groups of emoji, read from Unicode's own files."""

import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

TRAIN_LANGUAGE = "en"
_GROUP = re.compile(r"# group: (.+)")
_EMOJI = re.compile(r"([0-9A-F ]+?)\s*; fully-qualified")
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_SELECTOR = "\ufe0f"  # selects the coloured picture, with the same meaning
_INHERITED = "↑↑↑"
_FOLDS = ("test",) * 3 + ("validation",) + ("train",) * 6


def fold_of(emoji: str) -> str:
    """Return the split of an emoji by its hash: 0.6 of all for training, 0.1 for validation, 0.3 for testing.

    Example:
        >>> fold_of("🐈"), fold_of("🐶")
        ('train', 'test')
    """
    return _FOLDS[int.from_bytes(sha256(emoji.encode()).digest()[:8], "big") % 10]


def read_groups(path: Path) -> dict[str, str]:
    """Return the group of each emoji without a skin tone, from `emoji-test.txt` (UTS #51)."""
    groups, group = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := _GROUP.match(line):
            group = match[1]
        elif match := _EMOJI.match(line):
            points = [int(point, 16) for point in match[1].split()]
            if not any(point in _SKIN_TONES for point in points):
                groups["".join(map(chr, points)).replace(_SELECTOR, "")] = group
    return groups


def read_names(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the name and the keywords of each emoji in a file of annotations (UTS #35), without inherited ones."""
    names: dict[str, str] = {}
    keywords: dict[str, list[str]] = {}
    for annotation in ElementTree.parse(path).getroot().iter("annotation"):  # noqa: S314  # a system file
        emoji, text = annotation.get("cp", "").replace(_SELECTOR, ""), (annotation.text or "").strip()
        if not text or _INHERITED in text:
            continue
        if annotation.get("type") == "tts":
            names[emoji] = text
        else:
            keywords[emoji] = [word for word in (part.strip() for part in text.split("|")) if word]
    return names, keywords


def topic_rows(groups: dict[str, str], folder: Path, languages: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the training rows, then the validation and test rows language by language.

    A training row is an English name or keyword of an emoji in the train fold. Texts that emoji of several groups share
    are left out, and so are names of emoji in other folds. Other rows are names.
    """
    english, keywords = read_names(folder / f"{TRAIN_LANGUAGE}.xml")
    held_out = {name.casefold() for emoji, name in english.items() if fold_of(emoji) != "train"}
    owners: dict[str, list[str]] = {}  # emoji by text in lower case
    spellings: dict[str, str] = {}  # first spelling of each
    for emoji in groups:
        if fold_of(emoji) == "train":
            for text in (*((english[emoji],) if emoji in english else ()), *keywords.get(emoji, ())):
                owners.setdefault(text.casefold(), []).append(emoji)
                spellings.setdefault(text.casefold(), text)
    for text, shared in owners.items():
        if text not in held_out and len({groups[emoji] for emoji in shared}) == 1:
            yield {"split": "train", "text": spellings[text], "label": groups[shared[0]], "emoji": shared[0]}
    for language in languages:
        names, _ = read_names(folder / f"{language}.xml")
        for fold in ("validation", "test"):
            for emoji, group in groups.items():
                if emoji in names and fold_of(emoji) == fold:
                    row = {"text": names[emoji], "label": group, "emoji": emoji}
                    yield {"split": f"{fold}.{language}", **row}
