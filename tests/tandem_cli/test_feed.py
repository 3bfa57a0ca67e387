"""What a running job says, folded into one state."""

import asyncio
from pathlib import Path

import pytest

from tandem_api.job.status import Phase
from tandem_api.registry import Desired, Keys
from tandem_cli.feed import Feed, HistoryTail
from tandem_cli.live.state import LiveState
from tests.fakes.registry import FakeRegistry
from tests.tandem_cli.fake_history import JOB, STARTED_AT, fake_records, lines_of
from tests.tandem_cli.ground import until

KEYS = Keys("default", JOB)
NEW = LiveState(job=JOB, started_at=STARTED_AT, expected_members=2, iterations=40)
INFER = Desired(epoch=1, phase=Phase.INFER, generation=0, iteration=1, deadline=STARTED_AT + 60)
FIRST, SECOND, *_ = fake_records(iterations=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_history_that_does_not_exist_yet_has_nothing_new(path: Path) -> None:
    tail = HistoryTail(path)

    assert tail.new_records() == []

    append(path, lines_of([FIRST]))
    assert tail.new_records() == [FIRST]


def test_each_record_is_told_once(path: Path) -> None:
    tail = HistoryTail(path)
    append(path, lines_of([FIRST]))
    assert tail.new_records() == [FIRST]
    append(path, lines_of([SECOND]))

    assert tail.new_records() == [SECOND]
    assert tail.new_records() == []


def test_what_an_earlier_run_wrote_is_not_new(path: Path) -> None:
    append(path, lines_of([FIRST]))
    tail = HistoryTail(path)
    append(path, lines_of([SECOND]))

    assert tail.new_records() == [SECOND]


def test_a_torn_line_waits_for_its_end(path: Path) -> None:
    line = lines_of([SECOND])
    tail = HistoryTail(path)
    append(path, lines_of([FIRST]) + line[:20])
    assert tail.new_records() == [FIRST]

    append(path, line[20:])

    assert tail.new_records() == [SECOND]


def test_a_line_that_was_torn_between_the_bytes_of_one_letter_waits_too(path: Path) -> None:
    started = FIRST.model_copy(update={"job": "größe"})
    line = lines_of([started]).encode()
    tail = HistoryTail(path)
    cut = line.index("ö".encode()) + 1
    path.write_bytes(line[:cut])
    assert tail.new_records() == []

    path.write_bytes(line)

    assert tail.new_records() == [started]


def test_a_torn_line_of_a_killed_run_may_be_cut_off_by_the_next_one(path: Path) -> None:
    append(path, lines_of([FIRST]) + lines_of([SECOND])[:20])
    tail = HistoryTail(path)

    path.write_text(lines_of([FIRST]))
    append(path, lines_of([SECOND]))

    assert tail.new_records() == [SECOND]


def test_new_records_change_the_state_and_are_told_with_what_was_before() -> None:
    changes: list[tuple[LiveState, LiveState]] = []
    feed = Feed(NEW, lambda before, after: changes.append((before, after)))

    feed.take([])
    feed.take([FIRST, SECOND])

    assert changes == [(NEW, feed.state)]
    assert len(feed.state.history.switches) == 1


async def test_the_registrys_keys_are_folded_in_as_they_change() -> None:
    registry = FakeRegistry()
    await registry.put(KEYS.member("hybrid-0", "train"), "{}")
    feed = Feed(NEW, lambda before, after: None)
    task = asyncio.create_task(feed.follow_registry(registry, KEYS), name="feed")
    try:
        await asyncio.to_thread(until, lambda: len(feed.state.members) == 1, "the member is seen")
        await registry.put(KEYS.desired, INFER.model_dump_json())
        await registry.delete(KEYS.members)
        await asyncio.to_thread(until, lambda: not feed.state.members, "it is seen to go")
    finally:
        task.cancel()

    assert feed.state.desired == INFER


async def test_a_history_is_followed_while_it_grows(path: Path) -> None:
    grown = asyncio.Event()
    feed = Feed(NEW, lambda before, after: grown.set())
    task = asyncio.create_task(feed.follow_history(HistoryTail(path)), name="feed")
    try:
        append(path, lines_of([FIRST, SECOND]))
        async with asyncio.timeout(10):
            await grown.wait()
    finally:
        task.cancel()

    assert len(feed.state.history.switches) == 1
