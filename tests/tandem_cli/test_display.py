"""What `tandem up` shows while a job runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tandem_cli.display import Display
from tandem_cli.feed import Feed
from tandem_cli.live.state import LiveState, with_member
from tests.tandem_cli.fake_history import JOB, STARTED_AT
from tests.tandem_cli.ground import until

NEW = LiveState(job=JOB, started_at=STARTED_AT, expected_members=2, iterations=40)
REGISTERED = with_member(NEW, ("hybrid-0", "train"), is_registered=True)


@pytest.fixture
def screen() -> StringIO:
    return StringIO()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log of one container; its run's logs lie in the folder above."""
    path = tmp_path / "logs" / "math-hybrid-0" / "trainer.log"
    path.parent.mkdir(parents=True)
    return path


def display_on(screen: StringIO, *, terminal: bool) -> Display:
    return Display(Console(file=screen, force_terminal=terminal, width=100))


@asynccontextmanager
async def following(display: Display, logs: Path) -> AsyncIterator[None]:
    """Follow the logs while the context is open."""
    task = asyncio.create_task(display.follow_logs(logs), name="logs")
    try:
        yield
    finally:
        task.cancel()


async def shows(screen: StringIO, text: str) -> None:
    """Wait until the screen shows a text."""
    await asyncio.to_thread(until, lambda: text in screen.getvalue(), text)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_without_a_terminal_a_change_is_a_line(screen: StringIO) -> None:
    display_on(screen, terminal=False).changed(NEW, REGISTERED)

    assert screen.getvalue() == "starting: 1 of 2 engines registered\n"


def test_on_a_terminal_a_change_is_left_to_the_live_view(screen: StringIO) -> None:
    display_on(screen, terminal=True).changed(NEW, REGISTERED)

    assert screen.getvalue() == ""


def test_a_line_is_printed_as_it_is(screen: StringIO) -> None:
    line = "[bold]not markup[/bold] " + "x" * 200

    display_on(screen, terminal=False).line(line)

    assert screen.getvalue() == line + "\n"


async def test_the_live_view_shows_the_last_state_when_it_closes(screen: StringIO) -> None:
    display = display_on(screen, terminal=True)
    feed = Feed(NEW, display.changed)

    async with display.live(feed):
        feed.state = REGISTERED

    assert JOB in screen.getvalue()
    assert "1 of 2 engines registered" in screen.getvalue()


async def test_without_a_terminal_there_is_no_live_view(screen: StringIO) -> None:
    display = display_on(screen, terminal=False)

    async with display.live(Feed(NEW, display.changed)):
        pass

    assert screen.getvalue() == ""


async def test_log_lines_come_with_the_name_of_their_container(screen: StringIO, log: Path) -> None:
    other = log.parent.with_name("math-master") / "master.log"
    other.parent.mkdir()
    append(log, "loaded\n")
    append(other, "elected\n")

    async with following(display_on(screen, terminal=False), log.parents[1]):
        await shows(screen, "elected")

    assert screen.getvalue() == "[math-hybrid-0/trainer] loaded\n[math-master/master] elected\n"


async def test_a_log_line_is_printed_once_it_is_complete(screen: StringIO, log: Path) -> None:
    append(log, "first\nsec")

    async with following(display_on(screen, terminal=False), log.parents[1]):
        await shows(screen, "first")
        append(log, "ond\nthird")
        await shows(screen, "second")

    assert screen.getvalue().splitlines() == ["[math-hybrid-0/trainer] first", "[math-hybrid-0/trainer] second"]


async def test_what_earlier_runs_logged_is_left_out(screen: StringIO, log: Path) -> None:
    append(log, "yesterday\n")
    display = display_on(screen, terminal=False)
    display.skip_logs(log.parents[1])
    append(log, "today\n")

    async with following(display, log.parents[1]):
        await shows(screen, "today")

    assert screen.getvalue() == "[math-hybrid-0/trainer] today\n"
