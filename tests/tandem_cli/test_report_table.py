"""The end of a run in a terminal."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tandem_cli.report.history import History
from tandem_cli.report.quantity import clock_text, digits_text, plural_text, seconds_text
from tandem_cli.report.summary import summarize
from tandem_cli.report.table import closing_line, render_end
from tests.tandem_cli.fake_history import fake_history

PAGE = Path("runs/reverse-digits/report.html")


def printed(history: History, width: int) -> str:
    console = Console(record=True, width=width, file=StringIO())
    console.print(render_end(history, summarize(history), PAGE))
    return console.export_text()


def test_the_closing_line_tells_time_reward_switches_and_page() -> None:
    history = fake_history(iterations=40)
    summary = summarize(history)

    line = closing_line(summary, PAGE).plain

    assert line == (
        f"done in {clock_text(summary.seconds)}   reward 0.25 → 0.78   80 switches, "
        f"median {seconds_text(summary.train_to_infer_seconds_median)} / "
        f"{seconds_text(summary.infer_to_train_seconds_median)}   runs/reverse-digits/report.html"
    )


@pytest.mark.parametrize(
    ("history", "opening"),
    [
        (fake_history(iterations=1, result="Stopped"), "stopped after 0:1"),
        (fake_history(iterations=1, result="Failed"), "failed after 0:1"),
        (fake_history(iterations=1, result=None), "cut off after 0:1"),
        (History(), "cut off after –"),
    ],
)
def test_the_closing_line_says_how_the_run_ended(history: History, opening: str) -> None:
    assert closing_line(summarize(history), PAGE).plain.startswith(opening)


def test_every_stage_has_a_row_and_everything_fits_eighty_columns() -> None:
    text = printed(fake_history(iterations=40), width=80)

    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert [line.split()[0] for line in text.splitlines() if "━" in line or "0.0" in line][:3] == [
        "train→infer", "export", "offload",
    ]  # fmt: skip
    assert "infer→train" in text


def test_a_failed_run_says_why() -> None:
    text = printed(fake_history(iterations=0, result="Failed", message="server of hybrid-1: out of memory"), width=80)

    assert "server of hybrid-1: out of memory" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (64.9, "1:04"), (751, "12:31"), (7390, "2:03:10"), (None, "–")],
)
def test_durations_read_like_a_clock(seconds: float | None, text: str) -> None:
    assert clock_text(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.306, "0.31"), (9.999, "10.0"), (12.44, "12.4"), (1300.4, "1,300")])
def test_short_durations_keep_the_digits_that_matter(seconds: float, text: str) -> None:
    assert digits_text(seconds) == text


def test_counts_agree_with_their_noun() -> None:
    assert plural_text(1, "switch") == "1 switch"
    assert plural_text(2, "switch") == "2 switches"
    assert plural_text(1200, "pod") == "1,200 pods"
