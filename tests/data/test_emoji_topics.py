import os
import shutil
from itertools import combinations
from pathlib import Path

import pytest

from lightning_sparsegrad.data import EmojiTopicsDataModule, emoji_topics
from lightning_sparsegrad.data._unicode_names import fold_of, read_groups, read_names, topic_rows
from lightning_sparsegrad.errors import ConfigurationError
from tests.cases import cases
from tests.data.helpers import MINILM

INSTALLED = Path("/usr/share/unicode")
GROUPS = {  # the first of a group is one to test on
    "Smileys & Emotion": "😃😀😁😂🤣😄😅😆😉😊😋😎😍😘😗",
    "Animals & Nature": "🐶🐵🐒🦍🦧🐕🦮🐩🐺🦊🦝🐱🐈🦁🐯",
    "Component": "🏻🦰",
}
EXTRA = ("☺️", "👋🏽")  # with a selector of the picture, with a skin tone
HEAD = '<?xml version="1.0" encoding="UTF-8" ?>\n<ldml><identity/><annotations>\n'


def points(emoji: str) -> str:
    return " ".join(f"{ord(character):04X}" for character in emoji)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small tree with the layout of the packages."""
    root = tmp_path_factory.mktemp("unicode")
    (root / "emoji").mkdir()
    lines = ["# emoji-test.txt", "# subgroup: face"]
    for group, emoji in GROUPS.items():
        lines.append(f"# group: {group}")
        lines += [f"{points(each):<20}; fully-qualified     # {each} E1.0 name" for each in emoji]
        lines += [f"{points(each):<20}; fully-qualified # x" for each in EXTRA if group == "Smileys & Emotion"]
        lines.append("263A                ; unqualified   # ☺ E0.6")
    (root / "emoji" / "emoji-test.txt").write_text("\n".join(lines), encoding="utf-8")
    folder = root / "cldr" / "common" / "annotations"
    folder.mkdir(parents=True)
    everything = [
        *GROUPS["Smileys & Emotion"],
        *GROUPS["Animals & Nature"],
        "☺️",
        "🏻",
        "🦰",
    ]  # a selector here too, and components with names
    for language, word in {"en": "Name", "he": "שם", "zh_Hant": "名字"}.items():
        rows = []
        for emoji in everything:
            kind = "face" if emoji[0] in GROUPS["Smileys & Emotion"] + "☺" else "animal"
            rows.append(f'<annotation cp="{emoji}">{kind} | shared |word of {emoji} | Word of {emoji}</annotation>')
            rows.append(f'<annotation cp="{emoji}" type="tts">{word} {emoji}</annotation>')
        (folder / f"{language}.xml").write_text(f"{HEAD}{''.join(rows)}</annotations></ldml>", encoding="utf-8")
    inherited = "".join(f'<annotation cp="{emoji}" type="tts">↑↑↑</annotation>' for emoji in everything)
    (folder / "en_GB.xml").write_text(f"{HEAD}{inherited}</annotations></ldml>", encoding="utf-8")
    (folder / "root.xml").write_text(f"{HEAD}</annotations></ldml>", encoding="utf-8")
    return root


@pytest.fixture
def own(root: Path, tmp_path: Path) -> Path:
    """Copy the tree, for tests that change it."""
    return shutil.copytree(root, tmp_path / "own")


def annotations(root: Path, language: str) -> Path:
    return root / "cldr" / "common" / "annotations" / f"{language}.xml"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def one_of(fold: str, group: str) -> str:
    return next(emoji for emoji in GROUPS[group] if fold_of(emoji) == fold)


def emoji_of(data: EmojiTopicsDataModule, split: str) -> set[str]:
    return set(data.rows(split)["emoji"][:])


def test_groups_have_no_skin_tones_and_names_no_selector(root: Path) -> None:
    groups = read_groups(root / "emoji" / "emoji-test.txt")
    assert groups["☺"] == "Smileys & Emotion"
    assert not any("🏽" in emoji for emoji in groups)
    names, keywords = read_names(annotations(root, "he"))
    assert names["😀"] == "שם 😀"
    assert "☺" in names
    assert keywords["🐵"] == ["animal", "shared", "word of 🐵", "Word of 🐵"]


def test_rows_by_language(root: Path) -> None:
    data = EmojiTopicsDataModule(str(root), languages=["en", "he", "zh_Hant"])
    splits = data.splits_of_source
    assert list(splits) == [
        "train",
        *(f"{k}.{n}" for k in ("validation", "test", "predict") for n in ("en", "he", "zh_Hant")),
    ]
    for name, rows in splits.items():
        kind = {"predict": "test"}.get(name.split(".")[0], name.split(".")[0])
        assert {fold_of(emoji) for emoji in rows["emoji"][:]} == {kind}
    assert all(text.startswith("שם") for text in data.rows("test.he")["text"][:])
    assert emoji_of(data, "test.he") == emoji_of(data, "test.en") == emoji_of(data, "predict.zh_Hant")
    assert {label for rows in splits.values() for label in rows["label"][:]} == set(GROUPS) - {"Component"}


def test_english_is_trained_on_names_and_keywords_of_one_group(root: Path) -> None:
    rows = EmojiTopicsDataModule(str(root), languages=["he"]).rows("train")
    texts, emoji = rows["text"][:], set(rows["emoji"][:])
    assert len(texts) == len(set(texts))
    assert {f"Name {each}" for each in emoji} | {f"word of {each}" for each in emoji} | {"face", "animal"} == set(texts)
    labels = dict(zip(texts, rows["label"][:], strict=True))
    assert labels["face"] == "Smileys & Emotion"
    assert labels["animal"] == "Animals & Nature"


def test_a_text_that_names_an_emoji_of_another_fold_is_not_trained_on(own: Path) -> None:
    held = one_of("test", "Smileys & Emotion")
    replace(annotations(own, "en"), f">Name {held}<", ">Face<")
    texts = EmojiTopicsDataModule(str(own), languages=["en"]).rows("train")["text"][:]
    assert "face" not in texts
    assert "animal" in texts


def test_languages_with_few_names_are_left_out_unless_asked_for(root: Path) -> None:
    parts = EmojiTopicsDataModule(str(root), min_names=3).parts("test")
    assert list(parts) == ["en", "he", "zh_Hant"]
    assert not EmojiTopicsDataModule(str(root)).parts("test")
    with pytest.raises(ConfigurationError, match=r"names of emoji for validation and test\. Found `en_GB` without"):
        EmojiTopicsDataModule(str(root), languages=["en", "en_GB"]).parts("test")


def test_rows_are_tokenised_once(root: Path, cache: Path) -> None:
    def files() -> dict[Path, int]:
        data = EmojiTopicsDataModule(str(root), languages=["he"], tokenizer=MINILM)
        data.setup("fit")
        assert data.num_labels == 9
        assert data.train_language == "en"
        return {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}

    assert files() == files()


def test_a_changed_file_is_read_again(own: Path) -> None:
    def texts() -> list[str]:
        return list(EmojiTopicsDataModule(str(own), languages=["he"]).rows("test.he")["text"][:])

    before, path = texts(), annotations(own, "he")
    then = path.stat()
    replace(path, "שם ", "מה ")  # as long as before
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns + 1_000_000_000))
    assert texts() == [text.replace("שם", "מה") for text in before]


def test_changed_code_reads_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "code.py"
    code.write_text("old", encoding="utf-8")
    monkeypatch.setattr(emoji_topics, "_CODE", (code,))

    def texts() -> list[str]:
        return list(EmojiTopicsDataModule(str(root), languages=["he"]).rows("test.he")["text"][:])

    before = texts()
    read = topic_rows
    monkeypatch.setattr(
        emoji_topics, "topic_rows", lambda *given: ({**row, "text": row["text"] + "!"} for row in read(*given))
    )
    code.write_text("changed", encoding="utf-8")
    assert texts() == [f"{text}!" for text in before]


def test_only_the_languages_asked_for_are_read(own: Path) -> None:
    annotations(own, "zh_Hant").write_text("no annotations", encoding="utf-8")
    assert list(EmojiTopicsDataModule(str(own), languages=["he"]).parts("test")) == ["he"]


def test_a_language_without_names_to_validate_on_is_refused(own: Path) -> None:
    for emoji in filter(lambda emoji: fold_of(emoji) == "validation", "☺" + "".join(GROUPS.values())):
        text = annotations(own, "he").read_text(encoding="utf-8")
        annotations(own, "he").write_text(text.replace(f">שם {emoji}<", ">↑↑↑<"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"for validation and test\. Found `he` without"):
        EmojiTopicsDataModule(str(own), languages=["en", "he"]).parts("test")


@cases(
    ("arguments", "message"),
    [
        ({"languages": ["hee"]}, r"`languages` should be one of .* Found `languages = 'hee'`\. Near matches: `he`"),
        ({"languages": ["root"]}, r"`languages` should be one of 'en', .* Found `languages = 'root'`"),
        ({"languages": []}, r"should name at least one language"),
        ({"min_names": 0}, r"`min_names` should be at least 1"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_work(root: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EmojiTopicsDataModule(str(root), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["emoji", "cldr"])
def test_missing_packages_are_named(own: Path, missing: str) -> None:
    shutil.rmtree(own / missing)
    with pytest.raises(ConfigurationError, match=r"`root` .* run `apt-get install unicode-cldr-core unicode-data`, or"):
        EmojiTopicsDataModule(str(own))


@pytest.mark.long
@pytest.mark.skipif(not (INSTALLED / "cldr").is_dir(), reason="needs the packages unicode-cldr-core and unicode-data")
def test_the_installed_data() -> None:
    data = EmojiTopicsDataModule()
    assert len(data.parts("test")) >= 100
    assert len(set(data.rows("train")["label"][:])) == 9
    seen = {"train": emoji_of(data, "train")}
    for kind in ("validation", "test"):
        seen[kind] = set().union(*(emoji_of(data, split) for split in data.parts(kind).values()))
    assert all(not one & other for one, other in combinations(seen.values(), 2))
    assert all(len(emoji) > 100 for emoji in seen.values())


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [("</annotations>", "", "mismatched tag"), ('<annotation cp="', "<annotation cp=", "not well-formed")],
)
def test_broken_files_are_refused(own: Path, old: str, new: str, problem: str) -> None:
    replace(annotations(own, "he"), old, new)
    with pytest.raises(ConfigurationError, match=f"`root` should be a folder of Unicode's files.*: .*{problem}"):
        EmojiTopicsDataModule(str(own), languages=["he"]).load_splits()


def test_a_folder_without_a_name_to_train_on_is_refused(own: Path) -> None:
    replace(annotations(own, "en"), "Name", "↑↑↑")
    text = annotations(own, "en").read_text(encoding="utf-8")
    annotations(own, "en").write_text(text.replace("<annotation ", "<other ").replace("</annotation>", "</other>"))
    with pytest.raises(ConfigurationError, match="`root` should be a folder with training names of emoji"):
        EmojiTopicsDataModule(str(own), languages=["he"]).load_splits()
