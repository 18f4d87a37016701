"""Rows from Arrow tables, cached by `datasets`, whose `Dataset.from_generator` accepts only single rows.

A builder overrides methods with private names, as the documentation of `datasets` tells. `tests/private_names.py`
checks each against the installed version. No upstream issue; a `from_generator` for tables would end this.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from datasets import Dataset, DatasetInfo, Features
from datasets.table import table_cast
from typing_extensions import override

# open no files here: `datasets` replaces `open` and `Path` in the module of a builder with functions that read paths as
# chains of URLs


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
    """Return the rows of the tables that a function yields, from the cache if it has them.

    Args:
        generate: A function from the facts to the tables.
        features: The columns and the types that the tables are cast to.
        facts: The values that determine the tables; they are the cache key.
    """
    builder = _Builder(generate=generate, facts=dict(facts), features=features)
    builder.download_and_prepare()
    count = builder.info.splits["train"].num_examples  # a split without rows cannot be opened
    return builder.as_dataset("train") if count else Dataset.from_dict({})
