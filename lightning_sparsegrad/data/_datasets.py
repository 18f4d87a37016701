"""Rows that come as tables of Arrow, cached by `datasets`, whose `Dataset.from_generator` takes single rows alone.

A builder overrides methods with private names, as the documentation of `datasets` says; each is checked against the
installed version in `tests/private_names.py`. No upstream issue; a `from_generator` that takes tables would end this.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from datasets import Dataset, DatasetInfo, Features
from datasets.table import table_cast
from typing_extensions import override

# nothing is opened here: `datasets` puts functions of its own for `open` and `Path` into the module of a builder, to
# which a path is a chain of URLs


@dataclass
class _Tables(datasets.BuilderConfig):  # type: ignore[misc]  # ships no types
    generate: Callable[..., Iterator[Any]] | None = None
    facts: Mapping[str, Any] | None = None
    features: Features | None = None


class _Builder(datasets.ArrowBasedBuilder):  # type: ignore[misc]  # ships no types
    BUILDER_CONFIG_CLASS = _Tables

    @override
    def _info(self) -> DatasetInfo:
        return DatasetInfo(features=self.config.features)

    @override
    def _split_generators(self, _: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name="train", gen_kwargs=dict(self.config.facts))]

    @override
    def _generate_tables(self, **facts: Any) -> Iterator[tuple[int, Any]]:
        for number, table in enumerate(self.config.generate(**facts)):
            yield number, table_cast(table, self.config.features.arrow_schema)


def dataset_of_tables(generate: Callable[..., Iterator[Any]], features: Features, facts: Mapping[str, Any]) -> Dataset:
    """Return the rows of the tables that a function yields, from the cache where they are in it.

    Args:
        generate: Called with the facts.
        features: The columns and their types, which the tables are cast to.
        facts: What determines the tables: the key of the cache.
    """
    builder = _Builder(generate=generate, facts=dict(facts), features=features)
    builder.download_and_prepare()
    found = builder.info.splits["train"].num_examples  # no row makes a split that cannot be opened
    return builder.as_dataset("train") if found else Dataset.from_dict({})
