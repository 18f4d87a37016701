"""Prepare and run a shipped study: `python -m benchmarks.studies stability --quick --jobs=2`.

Arguments after the name of the study are passed to `sparsegrad study`.
"""

import sys
from pathlib import Path

from benchmarks.studies.encoder import make_encoder
from benchmarks.studies.reviews import make_reviews
from lightning_sparsegrad import EmojiTopicsDataModule
from lightning_sparsegrad.main import main

MATERIAL = Path("benchmarks/studies/material")
CONFIGS = {
    "stability": ("stability_words", "stability_confirmation", "stability_reviews"),
    "transfer": ("transfer",),
    "convergence": ("convergence",),
    "sparse": ("sparse",),
    "spikes": ("spikes",),
}


def prepare(study: str) -> None:
    """Make the files that a study reads, unless they exist."""
    if study == "stability" and not (MATERIAL / "reviews" / "test.csv").exists():
        make_reviews(MATERIAL / "reviews")
    if study == "transfer" and not (MATERIAL / "encoder" / "tokenizer_config.json").exists():
        splits = EmojiTopicsDataModule().load_splits()
        make_encoder(MATERIAL / "encoder", [text for rows in splits.values() for text in rows["text"]])


if __name__ == "__main__":
    if sys.argv[1:2] not in [[study] for study in CONFIGS]:
        sys.exit(f"usage: python -m benchmarks.studies {{{','.join(CONFIGS)}}} [arguments of `sparsegrad study`]")
    prepare(sys.argv[1])
    for config in CONFIGS[sys.argv[1]]:
        main(["study", "--config", f"studies/{config}", *sys.argv[2:]])
