"""Questions to a replay buffer from outside, while the master writes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tandem_api.trajectory import TrajectoryState
from tandem_master.buffer.query import Filter, Order, Reader, open_reader
from tandem_master.buffer.store import Buffer, open_buffer
from tandem_master.errors import BufferStateError
from tandem_master.sampling.state import Draw
from tests.tandem_master.texts import finished, segment, trajectory, unfinished

LONG = trajectory("long", segment(0, 6, 6), segment(1, 6, 6, 0), group="1-q", problem_id="q")


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[Buffer]:
    """Iteration 1 draws good, bad and long and trains the first two, iteration 2 finishes long and draws new."""
    drawn = [trajectory("good"), trajectory("bad"), trajectory("long", group="1-q", problem_id="q")]
    with closing(open_buffer(tmp_path / "buffer.sqlite")) as opened:
        opened.begin(1, Draw(("p", "q"), {"set": 2}), drawn)
        opened.record(1, [finished(trajectory("good", segment(0, 5, 0)))])
        opened.record(1, [finished(trajectory("bad", segment(0, 5, 5, 0)), reward=0.0)])
        opened.record(1, [unfinished(LONG.model_copy(update={"segments": LONG.segments[:1]}))])
        opened.commit(1, ["good", "bad"])
        opened.begin(2, Draw(("p",), {"set": 3}), [trajectory("new", group="2-p")])
        opened.record(2, [finished(LONG, reward=0.5)])
        yield opened


@pytest.fixture
def reader(buffer: Buffer, tmp_path: Path) -> Iterator[Reader]:
    with open_reader(tmp_path / "buffer.sqlite") as opened:
        yield opened


def names(reader: Reader, wanted: Filter, order: Order = Order.NEWEST, *, reverse: bool = False) -> list[str]:
    return [item.id for item in reader.listed(wanted, order, reverse=reverse)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), ["new", "long", "bad", "good"]),
        (Filter(state=TrajectoryState.TRAINED), ["bad", "good"]),
        (Filter(problem_id="q"), ["long"]),
        (Filter(iteration=2), ["new", "long"]),
        (Filter(correct=True), ["good"]),
        (Filter(correct=False), ["long", "bad"]),
        (Filter(finish_reason="stop"), ["long", "bad", "good"]),
        (Filter(iteration=1, correct=False), ["long", "bad"]),
        (Filter(problem_id="absent"), []),
    ],
)
def test_only_what_is_meant_is_listed_and_counted(reader: Reader, wanted: Filter, expected: list[str]) -> None:
    assert names(reader, wanted) == expected
    assert reader.count(wanted) == len(expected)


@pytest.mark.parametrize(
    ("order", "reverse", "expected"),
    [
        (Order.REWARD, False, ["good", "long", "bad", "new"]),
        (Order.REWARD, True, ["bad", "long", "good", "new"]),
        (Order.LENGTH, False, ["long", "bad", "good", "new"]),
        (Order.NEWEST, True, ["good", "bad", "long", "new"]),
    ],
)
def test_they_are_sorted(reader: Reader, order: Order, expected: list[str], *, reverse: bool) -> None:
    assert names(reader, Filter(), order, reverse=reverse) == expected


def test_a_list_tells_which_generations_sampled_a_response_and_how_long_it_is(reader: Reader) -> None:
    (found,) = reader.listed(Filter(problem_id="q"), Order.NEWEST)

    assert (found.first_generation, found.last_generation, found.num_tokens) == (0, 1, 5)
    assert (found.iteration, found.finished_iteration, found.reward) == (1, 2, 0.5)


def test_a_list_ends_where_it_is_told_to(reader: Reader) -> None:
    assert [item.id for item in reader.listed(Filter(), Order.NEWEST, most=2)] == ["new", "long"]


def test_one_trajectory_comes_with_its_segments(reader: Reader) -> None:
    found = reader.trajectory("long")

    assert found is not None
    assert found.segments == LONG.segments
    assert reader.trajectory("'; DROP TABLE segments") is None


def test_what_the_master_writes_meanwhile_is_seen(reader: Reader, buffer: Buffer) -> None:
    before = reader.count(Filter(correct=True))

    buffer.record(2, [finished(trajectory("new", segment(1, 5, 0), group="2-p"))])

    assert reader.count(Filter(correct=True)) == before + 1


def test_nothing_can_be_written(reader: Reader) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM segments")


def test_a_file_that_is_no_buffer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.sqlite").write_text("not a database, but a text of more than a hundred bytes " * 4)

    with (
        pytest.raises(BufferStateError, match=r"notes\.sqlite: cannot be read as a replay buffer"),
        open_reader(tmp_path / "notes.sqlite"),
    ):
        pass
