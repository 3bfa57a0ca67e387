"""The HTML page and the PNG."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tandem_cli.report.history import History, extend
from tandem_cli.report.page import page_data, page_text, script_json, write_page
from tandem_cli.report.png import moving_mean, picture, write_png
from tests.tandem_cli.fake_history import STARTED_AT, fake_evaluation, fake_history, fake_records

EMPTY = History()
FAILED = fake_history(iterations=0, result="Failed", message="hybrid-0 trainer: out of memory; lower the batch")
RESUMED = extend(
    EMPTY,
    fake_records(iterations=2, wanted=4, result=None)
    + fake_records(iterations=2, complete_before=2, started_at=STARTED_AT + 9000),
)
EVALUATED = extend(
    fake_history(iterations=20),
    [fake_evaluation(name, generation) for generation in range(0, 21, 5) for name in ("test", "harder")],
)
UNSCORED = extend(
    fake_history(iterations=2), [fake_evaluation("test", 1, pass_at={}, samples=0, unscored=200, mean_tokens=0.0)]
)
DOM = Path(__file__).with_name("page_dom.js")
HISTORIES = pytest.mark.parametrize(
    "history",
    [
        EMPTY,
        FAILED,
        fake_history(iterations=1, pods=("hybrid-0",)),
        fake_history(iterations=200),
        RESUMED,
        EVALUATED,
        UNSCORED,
    ],
    ids=["empty", "failed", "one iteration", "200 iterations", "resumed", "evaluated", "nothing scored"],
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


def test_the_page_has_every_set_with_its_evaluations() -> None:
    data = json.loads(script_json(page_data(EVALUATED, "reverse-digits")))

    test, harder = data["sets"]
    assert (test["name"], harder["name"]) == ("test", "harder")
    assert test["ks"] == [1, 4]
    assert [record["generation"] for record in test["evaluations"]] == [0, 5, 10, 15, 20]
    assert test["evaluations"][0]["passAt"] == {"1": pytest.approx(0.2), "4": pytest.approx(0.36)}
    assert test["evaluations"][2]["meanTokens"] == 7.0


def drawn(history: History, tmp_path: Path) -> list[dict[str, object]]:
    """Return what the page's own scripts make of a history in node: for each chart its label and number of paths."""
    page = tmp_path / "report.html"
    write_page(history, "reverse-digits", page)
    scripts = scripts_of(page.read_text())
    program = tmp_path / "page.js"
    program.write_text(DOM.read_text().replace("{{scripts}}", scripts.by_type["javascript"]))
    done = subprocess.run(
        ["node", program],
        input=scripts.by_type["application/json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    charts: list[dict[str, object]] = json.loads(done.stdout)
    return charts


@pytest.mark.skipif(shutil.which("node") is None, reason="runs the page's scripts: wants node")
@HISTORIES
def test_the_scripts_of_a_page_draw_any_history(tmp_path: Path, history: History) -> None:
    charts = drawn(history, tmp_path)

    assert len(charts) >= (4 if history.iterations else 0)


@pytest.mark.skipif(shutil.which("node") is None, reason="runs the page's scripts: wants node")
def test_a_set_is_drawn_as_the_share_solved_for_every_k_and_the_mean_length(tmp_path: Path) -> None:
    share, length = drawn(EVALUATED, tmp_path)[4:6]

    assert str(share["label"]).startswith(
        "test: share solved (pass@1, pass@4 dashed): pass@1 5 generations, first 0.200"
    )
    assert share["paths"] == 2
    assert str(length["label"]).startswith("test: response length: 5 generations, first 7.5, last 6.5")
    assert length["paths"] == 1


def test_the_picture_has_a_panel_of_held_out_sets() -> None:
    panel = next(axes for axes in picture(EVALUATED).axes if axes.get_title(loc="left").startswith("Held-out"))

    assert [line.get_label() for line in panel.lines] == [
        "test: pass@1", "test: pass@4", "harder: pass@1", "harder: pass@4",
    ]  # fmt: skip
    assert np.asarray(panel.lines[0].get_xydata())[:, 0].tolist() == [0, 5, 10, 15, 20]
    assert np.asarray(panel.lines[0].get_xydata())[0, 1] == pytest.approx(0.2)


def test_a_picture_without_evaluations_has_no_panel_of_them() -> None:
    titles = [axes.get_title(loc="left") for axes in picture(fake_history(iterations=3)).axes]

    assert not any(title.startswith("Held-out") for title in titles)


def test_a_moving_mean_starts_with_the_first_value() -> None:
    assert moving_mean([1, 3, 5, 7], 2) == [1, 2, 4, 6]
