"""The reference page says what the types say."""

from pathlib import Path

from tandem_api.crd import Schema, custom_resource_definition
from tandem_api.reference import reference
from tests.tandem_api.schemas import nodes, root

PAGE = Path(__file__).parents[2] / "docs" / "rljob.md"


def test_the_page_is_what_the_types_say_today() -> None:
    assert PAGE.read_text() == reference(), "run `python -m tandem_api.reference > docs/rljob.md`"


def test_every_field_has_a_row() -> None:
    schema: Schema = root(custom_resource_definition())
    every = [name for part in ("spec", "status") for node in nodes(schema["properties"][part]) for name in
             node.get("properties", {})]  # fmt: skip
    page = reference()

    assert [name for name in every if f"| `{name}` |" not in page] == []


def test_no_row_is_empty() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]

    assert [row for row in rows if row.endswith("|  |")] == []
