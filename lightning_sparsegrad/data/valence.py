"""Human valence ratings of words, real labels from an installed package."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, get_args

from typing_extensions import override

from lightning_sparsegrad.data._checks import listed
from lightning_sparsegrad.data._lines import digests_of, lines_of
from lightning_sparsegrad.data.base import TokenizedDataModule
from lightning_sparsegrad.data.encodings import SequenceEncoding
from lightning_sparsegrad.errors import ConfigurationError, near_matches
from lightning_sparsegrad.hub._names import resolve_source

if TYPE_CHECKING:
    from datasets import Dataset

LEXICON = "package:vaderSentiment/vaderSentiment/vader_lexicon.txt"
Target = Literal["polarity", "valence"]

_COLUMNS = {
    "word": "string",
    "valence": "float64",
    "deviation": "float64",
    "ratings": "string",
    "polarity": "string",
}
_STEM_LENGTH = 5  # characters
_SPLIT_OF_TENTH = ("train",) * 8 + ("validation", "test")


def split_of_word(word: str) -> str:
    """Return the split of a word, which is the same for all words that share the first five letters, in any case.

    Inflections and derivations (`abandon`, `abandoned`, `abandonment`) thus stay in one split, so that no test word is
    known from its training sibling.

    Example:
        >>> split_of_word("abandon") == split_of_word("Abandonment")
        True
    """
    stem = word.casefold()[:_STEM_LENGTH]
    return _SPLIT_OF_TENTH[int.from_bytes(sha256(stem.encode()).digest()[:8], "big") % 10]


class ValenceDataModule(TokenizedDataModule):
    """Data of 7,520 English words and emoticons with the mean rating of ten people, from -4 (negative) to 4 (positive).

    The ratings are those of the VADER lexicon, read from the installed `vaderSentiment` distribution; no hub is needed.
    A hash of the first five letters gives the split (`split_of_word`): 6,020 entries for training, 781 for validation
    and 719 for testing, which are also predicted. Always predicting the larger class is correct for 0.564, 0.549 (both
    negative) and 0.519 (positive) of them. No mean is zero; emoticons and a few phrases ("fed up") are kept.

    Args:
        target: The target: `"polarity"`, the classes `negative` and `positive` by the sign of the mean, or `"valence"`,
            the mean itself as a regression target.
        **kwargs: Arguments of `TokenizedDataModule`: `tokenizer`, `max_length`, `batch_size`, `eval_batch_size`,
            `num_workers`, `pad_to_multiple_of`, `group_by_length`, `max_samples` and `seed`.

    Raises:
        ConfigurationError: If `target` is neither, `vaderSentiment` is not installed, or a number is out of range.

    Example:
        >>> ValenceDataModule(target="valence", batch_size=32).num_labels
        1

    References:
        C. J. Hutto, Eric Gilbert. VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text.
        ICWSM 2014. https://ojs.aaai.org/index.php/ICWSM/article/view/14550
    """

    def __init__(self, target: Target = "polarity", **kwargs: Any) -> None:
        if target not in get_args(Target):
            raise ConfigurationError(
                f"Parameter `target` should be one of {listed(get_args(Target))}. Found `target = {target!r}`."
                f"{near_matches(target, get_args(Target))}"
            )
        super().__init__(encoding=SequenceEncoding("word", target), **kwargs)
        self._lexicon = resolve_source(LEXICON)

    @override
    def load_splits(self) -> "dict[str, Dataset]":
        """Return the entries of each split, with `word`, `valence` and `polarity`."""
        from datasets import Dataset, Features, Value

        features = Features({name: Value(kind) for name, kind in _COLUMNS.items()})
        facts = {"path": self._lexicon, "contents": digests_of([self._lexicon])}
        entries = Dataset.from_generator(_entries, features, gen_kwargs=facts)
        splits = [split_of_word(word) for word in entries["word"]]
        rows = {
            name: entries.select([index for index, split in enumerate(splits) if split == name])
            for name in ("train", "validation", "test")
        }
        return {**rows, "predict": rows["test"]}


def _entries(path: str, contents: Sequence[str]) -> Iterator[dict[str, Any]]:  # noqa: ARG001
    for line in lines_of(path):
        word, mean, deviation, ratings = line.rstrip("\n").split("\t")
        valence = float(mean)
        polarity = "positive" if valence > 0 else "negative"
        yield dict(zip(_COLUMNS, (word, valence, float(deviation), ratings, polarity), strict=True))
