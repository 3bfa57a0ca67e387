"""The page of figures has a place that the benchmark fills, and nothing around it changes."""

from pathlib import Path

import pytest
from benchmarks.reshard_bench.table import BEGIN, END, replaced

PAGE = Path(__file__).parents[2] / "docs" / "reshard.md"


def test_the_page_has_one_place_for_the_tables() -> None:
    page = PAGE.read_text()

    assert (page.count(BEGIN), page.count(END)) == (1, 1)


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    assert replaced(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="not enough values"):
        replaced("a page", "new")
