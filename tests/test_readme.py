import re

from tests.documents import README
from tests.strategies import OVERLAYS, STRATEGIES

TEXT = README.read_text()


def test_it_is_read_to_the_end() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 150
    assert max(len(line) for line in lines if not line.startswith(("|", "<!--"))) <= 120


def test_every_strategy_and_overlay_has_its_line_in_the_table() -> None:
    table = TEXT.split("## Strategies")[1].split("\n## ")[0]
    rows = [line.split("|")[1:] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(row[0].strip(" `") for row in rows) == [strategy.__name__ for strategy in STRATEGIES]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row[1])) == sorted(OVERLAYS)
    assert all(row[2].strip() for row in rows)
