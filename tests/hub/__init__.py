"""Small GLUE and XGLUE data in the format of their hub repositories, made of a few words, and an encoder for them.

One of `KEYS`, the same in every language, decides a row's label, so that a tiny model learns it from English and shows
it in any language. Everything else is filler in the language's own script.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
import yaml
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import AutoConfig, AutoModel, BertTokenizer

from tests.tiny import SIZE, build

KEYS = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota"),
    *("kappa", "lambda", "mu", "nu", "xi", "omicron", "pi", "rho"),
)
FILLERS = {
    "en": "the rain falls on old houses",
    "ar": "المطر يهطل على البيوت القديمة",
    "bg": "дъждът вали над старите къщи",
    "de": "der Regen fällt auf alte Häuser",
    "el": "η βροχή πέφτει στα παλιά σπίτια",
    "es": "la lluvia cae sobre casas viejas",
    "fr": "la pluie tombe sur les maisons",
    "hi": "बारिश पुराने घरों पर गिरती है",
    "it": "la pioggia cade sulle vecchie case",
    "nl": "de regen valt op oude huizen",
    "pl": "deszcz pada na stare domy",
    "pt": "a chuva cai nas casas velhas",
    "ru": "дождь падает на старые дома",
    "sw": "mvua inanyesha juu ya nyumba kuukuu",
    "th": "ฝน ตก ลง บน บ้าน เก่า",
    "tr": "eski evlerin üstüne yağmur yağıyor",  # noqa: RUF001
    "ur": "بارش پرانے گھروں پر گرتی ہے",
    "vi": "mưa rơi trên những ngôi nhà cũ",
    "zh": "雨 落在 古老 的 房子 上",
}
UNSPACED = ("th", "zh")
NAMES = {"PER": ("Anna", "Maria Klein"), "ORG": ("Unilever", "Bank Europa"), "LOC": ("Berlin", "Den Haag")}
NAMES["MISC"] = ("Olympia", "Copa America")
WORDS = sorted({word for text in (*KEYS, *FILLERS.values(), *sum(NAMES.values(), ())) for word in text.split()})

NLI = ("entailment", "neutral", "contradiction")
PAIR = ("sentence1", "sentence2")
GLUE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # the columns of the texts, and the labels
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "sst2": (("sentence",), ("negative", "positive")),
    "mrpc": (PAIR, ("not_equivalent", "equivalent")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "stsb": (PAIR, ()),
    "mnli": (("premise", "hypothesis"), NLI),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "rte": (PAIR, ("entailment", "not_entailment")),
    "wnli": (PAIR, ("not_entailment", "entailment")),
    "ax": (("premise", "hypothesis"), NLI),
}
GLUE_SPLITS = {
    "mnli": ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"),
    "ax": ("test",),
}
GRADES = ("Bad", "Fair", "Good", "Excellent", "Perfect")
CATEGORIES = "foodanddrink sports travel finance lifestyle news entertainment health video autos"
XGLUE: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {  # texts, label column, labels
    "nc": (("news_title", "news_body"), "news_category", tuple(CATEGORIES.split())),
    "xnli": (("premise", "hypothesis"), "label", NLI),
    "paws-x": (PAIR, "label", ("different", "same")),
    "qadsm": (("query", "ad_title", "ad_description"), "relevance_label", ("Bad", "Good")),
    "wpr": (("query", "web_page_title", "web_page_snippet"), "relavance_label", GRADES),
    "qam": (("question", "answer"), "label", ("False", "True")),
}
TAGS = {
    "ner": ("O", *(f"{prefix}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for prefix in "BI")),
    "pos": (
        *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
        *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
    ),
}
XGLUE_LANGUAGES = {
    "ner": "en de es nl",
    "pos": "en de es nl bg el fr pl tr vi zh ur hi it ar ru th",
    "nc": "en de es fr ru",
    "mlqa": "en de ar es hi vi zh",
    "xnli": "en ar bg de el es fr hi ru sw th tr ur vi zh",
    "paws-x": "en de es fr",
    "qadsm": "en de fr",
    "wpr": "en de es fr it pt zh",
    "qam": "en de fr",
}
GROUPS = (3, 1, 4)  # the pages of a query, over and over


def write_glue(folder: Path, task: str, *, rows: int = 12) -> str:
    """Write every split of a GLUE task beneath the folder, and return the folder."""
    columns, labels = GLUE[task]
    label = ClassLabel(names=list(labels)) if labels else Value("float32")
    features = Features({**dict.fromkeys(columns, Value("string")), "label": label, "idx": Value("int32")})
    for split in GLUE_SPLITS.get(task, ("train", "validation", "test")):
        labelled_rows = [_labelled("en", split, row, columns, len(labels) or 5) for row in range(rows)]
        scale = 1 if labels else 1.25  # similarities 0 to 5
        published = not split.startswith("test")
        data = [
            {**texts, "label": id_ * scale if published else -1, "idx": row}
            for row, (texts, id_) in enumerate(labelled_rows)
        ]
        _write(folder, task, split, data, features)
    return _write_card(folder)


def write_xglue(folder: Path, task: str, *, rows: int = 12) -> str:
    """Write every split of an understanding task of XGLUE beneath the folder, and return the folder."""
    make, features = _XGLUE_ROWS.get(task, _sequence_row), xglue_features(task)
    languages = XGLUE_LANGUAGES[task].split()
    splits = [("train", "en"), *((f"{part}.{name}", name) for part in ("validation", "test") for name in languages)]
    for split, language in splits:
        _write(folder, task, split, [make(task, language, split, row) for row in range(rows)], features)
    return _write_card(folder)


def xglue_features(task: str) -> Features:
    """Return the features of an XGLUE task."""
    if task in TAGS:
        return Features({"words": List(Value("string")), task: List(ClassLabel(names=list(TAGS[task])))})
    if task == "mlqa":
        answers = {"answer_start": List(Value("int32")), "text": List(Value("string"))}
        return Features({"context": Value("string"), "question": Value("string"), "answers": answers})
    columns, label, names = XGLUE[task]
    return Features({**dict.fromkeys(columns, Value("string")), label: ClassLabel(names=list(names))})


def tiny_encoder(folder: Path, words: Sequence[str] = WORDS, *, kind: str = "bert", layers: int = 2) -> str:
    """Save an encoder without a head, 32 wide, with 512 positions, and a tokenizer that spells longer words out.

    Words of at most seven letters are one token, others as many as they have letters, and so is what it never saw
    if the letters are known. A Chinese character is a token.
    """
    letters = sorted({letter for word in words for letter in word})
    whole = [word for word in words if 1 < len(word) <= 7]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *whole, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    segments = ["token_type_ids"] if kind == "bert" else []
    tokenizer = BertTokenizer(
        vocab=vocabulary,
        do_lower_case=False,
        strip_accents=False,  # vowels of Hindi are marks
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask", *segments],
    )
    tokenizer.save_pretrained(folder)
    changes = {"vocab_size": len(vocabulary), "num_hidden_layers": layers, "initializer_range": 0.2}
    changes |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    positions = 512 if kind == "bert" else 513  # XLM-R's begin after the padding's
    config = AutoConfig.for_model(kind, **{**SIZE, **changes, "max_position_embeddings": positions})
    build(AutoModel.from_config, config).to(torch.float32).save_pretrained(folder)  # type: ignore[operator]
    return str(folder)


def _filler(language: str, split: str, row: int, length: int) -> list[str]:
    words = FILLERS[language].split()
    start = crc32(split.encode()) + row
    return [words[(start + step * (1 + row % 3)) % len(words)] for step in range(length)]


def _joined(language: str, words: Sequence[str]) -> str:
    return ("" if language in UNSPACED else " ").join(words)


def _labelled(language: str, split: str, row: int, columns: Sequence[str], labels: int) -> tuple[dict[str, Any], int]:
    """Return the texts of a row, the last with the key of its label, and the label."""
    label = (row * 7 + row // labels) % labels
    texts = {name: _joined(language, _filler(language, split, row + at, 4)) for at, name in enumerate(columns)}
    texts[columns[-1]] += f" {KEYS[label]}"
    return texts, label


def _sequence_row(task: str, language: str, split: str, row: int) -> dict[str, Any]:
    columns, name, labels = XGLUE[task]
    texts, label = _labelled(language, split, row, columns, len(labels))
    return {**texts, name: label}


def _ranking_row(task: str, language: str, split: str, row: int) -> dict[str, Any]:
    """Return a page for a query; every second query is the same text, which does not make its pages one group."""
    group, left = 0, row
    while left >= GROUPS[group % len(GROUPS)]:
        left -= GROUPS[group % len(GROUPS)]
        group += 1
    query = _joined(language, _filler(language, split, group % 2, 3))
    return {**_sequence_row(task, language, split, row), "query": query}


def _answer_row(task: str, language: str, split: str, row: int) -> dict[str, Any]:
    """Return a context whose answer is a key and, in every second row, a word; in some rows it is there before."""
    before, after = (_joined(language, _filler(language, split, row + at, 6)) for at in (0, 1))
    answer = KEYS[row % 5]
    if row % 2:
        answer += ("" if language in UNSPACED else " ") + _filler(language, split, row, 1)[0]
    before = f"{answer} {before}" if row % 3 == 2 else before
    question = _joined(language, _filler(language, split, row + 2, 4))
    answers = {"answer_start": [len(before) + 1], "text": [answer]}
    return {"context": f"{before} {answer} {after}", "question": f"{question}?", "answers": answers}


def _name_row(task: str, language: str, split: str, row: int) -> dict[str, Any]:
    """Return words with a name; as CoNLL-2003 has it, one may begin with I: here, those of one word do."""
    words, kind = _filler(language, split, row, 4), ("PER", "ORG", "LOC", "MISC")[row // 2 % 4]
    name = NAMES[kind][row % 2].split()
    tags = [f"I-{kind}"] if len(name) == 1 else [f"B-{kind}", f"I-{kind}"]
    at = row % 5
    return {"words": [*words[:at], *name, *words[at:]], task: ["O"] * at + tags + ["O"] * (4 - at)}


def _word_class_row(task: str, language: str, split: str, row: int) -> dict[str, Any]:
    """Return nouns and two keys, one for each of the classes."""
    first, second = 2 * row % len(KEYS), (2 * row + 1) % len(KEYS)
    nouns = _filler(language, split, row, 4)
    tags = TAGS[task]
    words = [KEYS[first], *nouns[:2], KEYS[second], *nouns[2:]]
    return {"words": words, task: [tags[first], "NOUN", "NOUN", tags[second], "NOUN", "NOUN"]}


_XGLUE_ROWS = {"mlqa": _answer_row, "wpr": _ranking_row, "ner": _name_row, "pos": _word_class_row}


def _write(folder: Path, config: str, split: str, rows: list[dict[str, Any]], features: Features) -> None:
    path = Path(folder) / config / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(path)


def _write_card(folder: Path) -> str:
    """Write the README whose header tells `datasets` the configurations; without it, it would mix the languages."""
    configs = []
    for config in sorted(path for path in Path(folder).iterdir() if path.is_dir()):
        splits = [path.name.split("-0", 1)[0] for path in sorted(config.glob("*.parquet"))]
        files = [{"split": split, "path": f"{config.name}/{split}-*"} for split in splits]
        configs.append({"config_name": config.name, "data_files": files})
    (Path(folder) / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return str(folder)
