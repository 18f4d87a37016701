"""Topics of emoji, by their translated names in over a hundred languages."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from lightning_sparsegrad.data import _unicode_names as unicode_names
from lightning_sparsegrad.data._checks import listed, require_at_least
from lightning_sparsegrad.data._unicode_names import TRAIN_LANGUAGE, read_groups, topic_rows
from lightning_sparsegrad.data.base import TokenizedDataModule
from lightning_sparsegrad.data.encodings import SequenceEncoding
from lightning_sparsegrad.errors import ConfigurationError, reason_of, require_one_of
from lightning_sparsegrad.hub._names import resolve_source

if TYPE_CHECKING:
    from datasets import Dataset

GROUPS = (
    *("Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places"),
    *("Activities", "Objects", "Symbols", "Flags"),
)
_NAMES, _GROUPS = Path("cldr/common/annotations"), Path("emoji/emoji-test.txt")
_CODE = (Path(__file__), Path(unicode_names.__file__))
_COLUMNS = ("split", "text", "label", "emoji")


class EmojiTopicsDataModule(TokenizedDataModule):
    """Names of emoji in over a hundred languages, labelled with their Unicode group, for zero-shot transfer.

    Training uses English names and keywords; validation and test use names in every language, including under-resourced
    ones. A hash of the emoji gives the split (`fold_of`), so that no emoji is in two splits, in any language. The names
    are those of the CLDR, by native translators; the groups are those of UTS #51.

    With version 41 of the CLDR there are 2,043 English texts for training, and about 165 names for validation and 420
    for testing in each of 108 languages. Always predicting the largest group is correct for 0.19 of the training texts
    and 0.21 of the English test names. `Flags` has only a few names.

    Nothing is downloaded: the files come from the Debian packages `unicode-cldr-core` and `unicode-data`
    (`apt-get install unicode-cldr-core unicode-data`), or from the archives that Unicode publishes under its licence.

    Args:
        root: The folder of `cldr/common/annotations` and `emoji/emoji-test.txt`.
        languages: The languages for validation, test and prediction, named like CLDR's files: `de`, `sw`, `zh_Hant`. By
            default all with at least `min_names` test names.
        min_names: The number of test names that a default language needs: regional variants have only a few.
        **kwargs: Arguments of `TokenizedDataModule`: `tokenizer`, `max_length`, `batch_size`, `eval_batch_size`,
            `num_workers`, `pad_to_multiple_of`, `group_by_length`, `max_samples` and `seed`.

    Raises:
        ConfigurationError: If the files do not exist, there is no such language, or a number is out of range.

    Example:
        >>> GROUPS[0], len(GROUPS)
        ('Smileys & Emotion', 9)

    References:
        Unicode Common Locale Data Repository. https://cldr.unicode.org
        Mark Davis, Ned Holbrook. Unicode Emoji. UTS #51. https://www.unicode.org/reports/tr51
    """

    train_language = TRAIN_LANGUAGE
    labels = GROUPS
    metrics = ("accuracy", "f1")

    def __init__(
        self,
        root: str = "/usr/share/unicode",
        *,
        languages: list[str] | None = None,
        min_names: int = 250,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoding=SequenceEncoding("text", "label", list(GROUPS)), **kwargs)
        require_at_least(1, min_names=min_names)
        self._root = Path(resolve_source(root))
        self._names, self._groups = self._root / _NAMES, self._root / _GROUPS
        if not (self._names / f"{TRAIN_LANGUAGE}.xml").is_file() or not self._groups.is_file():
            raise ConfigurationError(
                f"Parameter `root` should be a folder with `{_NAMES}` and `{_GROUPS}`: run `apt-get install "
                f"unicode-cldr-core unicode-data`, or give the folder that has them. Found `root = {root!r}`."
            )
        known = sorted(path.stem for path in self._names.glob("*.xml") if path.stem != "root")
        for language in languages or ():
            require_one_of("languages", language, known)
        if languages is not None and not languages:
            raise ConfigurationError("Parameter `languages` should name at least one language. Found `languages = []`.")
        self._is_asked, self._languages = languages is not None, languages or known
        self._least = 1 if languages else min_names

    @override
    def load_splits(self) -> "dict[str, Dataset]":
        """Return the training rows, and the rows of each language for validation, test and prediction.

        Raises:
            ConfigurationError: If a language in `languages` has no names.
        """
        from datasets import Dataset, Features, Value

        files = [*_CODE, self._groups, *(self._names / f"{name}.xml" for name in {TRAIN_LANGUAGE, *self._languages})]
        versions = tuple(sorted(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files))
        try:
            rows = Dataset.from_generator(
                _rows,
                Features(dict.fromkeys(_COLUMNS, Value("string"))),
                gen_kwargs={
                    "names": str(self._names),
                    "groups": str(self._groups),
                    "languages": tuple(self._languages),
                    "versions": versions,  # changed files or code invalidate the cache
                },
            )
        except Exception as error:  # errors in XML, UTF-8 or code points, which `datasets` wraps
            cause = error if error.__cause__ is None else error.__cause__
            raise ConfigurationError(
                f"Parameter `root` should be a folder of Unicode's files. Found `root = {str(self._root)!r}`: "
                f"{reason_of(cause)}"
            ) from error
        by_split: dict[str, Dataset] = {}
        start = 0
        for split, same in groupby(rows["split"][:]):
            count = sum(1 for _ in same)
            by_split[split] = rows.select(range(start, start + count)).remove_columns("split")
            start += count
        if "train" not in by_split:
            raise ConfigurationError(
                f"Parameter `root` should be a folder with training names of emoji in the nine groups in "
                f"{TRAIN_LANGUAGE!r}. Found `root = {str(self._root)!r}` with none."
            )
        kept = [
            language
            for language in self._languages
            if f"validation.{language}" in by_split and len(by_split.get(f"test.{language}", ())) >= self._least
        ]
        missing = [language for language in self._languages if language not in kept]
        if missing and self._is_asked:
            raise ConfigurationError(
                f"Parameter `languages` should name languages with names of emoji for validation and test. "
                f"Found {listed(missing)} without."
            )
        splits = {"train": by_split["train"]}
        for kind, source in (("validation", "validation"), ("test", "test"), ("predict", "test")):
            splits |= {f"{kind}.{language}": by_split[f"{source}.{language}"] for language in kept}
        return splits


def _rows(
    names: str,
    groups: str,
    languages: tuple[str, ...],
    versions: tuple[str, ...],  # noqa: ARG001
) -> Iterator[dict[str, str]]:
    known = {emoji: group for emoji, group in read_groups(Path(groups)).items() if group in GROUPS}
    yield from topic_rows(known, Path(names), languages)
