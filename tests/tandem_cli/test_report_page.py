"""The HTML page and the PNG."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tandem_cli.report.history import History, extend
from tandem_cli.report.page import page_data, page_text, script_json, write_page
from tandem_cli.report.png import moving_mean, write_png
from tests.tandem_cli.fake_history import STARTED_AT, fake_history, fake_records

EMPTY = History()
FAILED = fake_history(iterations=0, result="Failed", message="hybrid-0 trainer: out of memory; lower the batch")
RESUMED = extend(
    EMPTY,
    fake_records(iterations=2, wanted=4, result=None)
    + fake_records(iterations=2, complete_before=2, started_at=STARTED_AT + 9000),
)
HISTORIES = pytest.mark.parametrize(
    "history",
    [EMPTY, FAILED, fake_history(iterations=1, pods=("hybrid-0",)), fake_history(iterations=200), RESUMED],
    ids=["empty", "failed", "one iteration", "200 iterations", "resumed"],
)


class Scripts(HTMLParser):
    """Collects scripts, and every attribute that would make a browser fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: str | None = None
        self.by_type: dict[str, str] = {}
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]
        if tag == "script":
            self.inside = values.get("type") or "javascript"
            self.by_type[self.inside] = ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.by_type[self.inside] += data


def scripts_of(text: str) -> Scripts:
    parser = Scripts()
    parser.feed(text)
    return parser


@HISTORIES
def test_a_page_holds_its_data_and_fetches_nothing(tmp_path: Path, history: History) -> None:
    path = tmp_path / "report.html"

    write_page(history, "reverse-digits", path)

    text = path.read_text()
    scripts = scripts_of(text)
    data = json.loads(scripts.by_type["application/json"])
    assert data["job"] == "reverse-digits"
    assert len(data["iterations"]) == len(history.iterations)
    assert set(scripts.fetched) == {"data:,"}
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "default-src 'none'" in text
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]


def test_nothing_in_the_data_can_end_its_script() -> None:
    message = "</script><script>alert(1)</script> & <!-- {{styles}}"
    data = page_data(fake_history(iterations=0, result="Failed", message=message), "reverse-digits")

    scripts = scripts_of(page_text(data))

    assert "<" not in script_json(data)
    assert json.loads(scripts.by_type["application/json"])["message"] == message


def test_a_job_name_is_escaped_in_the_markup() -> None:
    text = page_text(page_data(EMPTY, "<b>a</b>"))

    assert "<b>a</b>" not in text
    assert "&lt;b&gt;a&lt;/b&gt;" in text


def test_a_number_that_is_not_finite_becomes_null() -> None:
    (record,) = fake_history(iterations=1).iterations
    history = History(iterations=(record.model_copy(update={"loss": float("nan")}),))

    data = json.loads(script_json(page_data(history, "reverse-digits")))

    assert data["iterations"][0]["loss"] is None


def test_no_marker_of_the_template_is_left() -> None:
    assert "{{" not in page_text(page_data(EMPTY, "reverse-digits"))


@HISTORIES
def test_a_picture_is_written_for_any_history(tmp_path: Path, history: History) -> None:
    path = tmp_path / "report.png"

    write_png(history, path)

    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_moving_mean_starts_with_the_first_value() -> None:
    assert moving_mean([1, 3, 5, 7], 2) == [1, 2, 4, 6]
