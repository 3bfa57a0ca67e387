"""The replay buffer on a real SQLite file: nothing is lost, nothing is trained twice."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tandem_api.trajectory import TrajectoryState
from tandem_master.buffer.outcome import Outcome
from tandem_master.buffer.rows import pack_tokens, unpack_tokens
from tandem_master.buffer.store import Buffer, open_buffer
from tandem_master.errors import BufferStateError
from tandem_master.retention import Retention
from tandem_master.rewards.verdict import Trouble, Verdict
from tandem_master.sampling.state import Draw, Tally
from tests.tandem_master.texts import finished, segment, trajectory, unfinished

UNDONE_3 = """
DROP TABLE tallies;
DROP INDEX trajectories_by_state;
DROP INDEX trajectories_by_finish;
DROP INDEX segments_by_generation;
DROP INDEX segments_by_length;
ALTER TABLE iterations RENAME TO committed;
CREATE TABLE iterations (iteration INTEGER PRIMARY KEY, generation INTEGER NOT NULL, checkpoint TEXT) STRICT;
INSERT INTO iterations SELECT iteration, generation, checkpoint FROM committed;
DROP TABLE committed;
CREATE INDEX trajectories_by_state ON trajectories (state);
CREATE INDEX trajectories_by_finish ON trajectories (finished_iteration);
CREATE INDEX segments_by_generation ON segments (generation);
PRAGMA user_version = 2;
"""
"""Makes a file of version 2."""
UNDONE_2 = "ALTER TABLE trajectories DROP COLUMN terms; PRAGMA user_version = 1;"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "buffer.sqlite"


@pytest.fixture
def buffer(path: Path) -> Iterator[Buffer]:
    with closing(open_buffer(path)) as opened:
        yield opened


def begin(buffer: Buffer, iteration: int, *names: str, group: str = "g") -> None:
    """Draw one problem with a trajectory for each name."""
    draw = Draw(("p",), {"set": iteration})
    buffer.begin(iteration, draw, [trajectory(name, group=f"{iteration}-{group}") for name in names])


def run_two_iterations(buffer: Buffer) -> None:
    """Iteration 1 trains a and carries b over, iteration 2 draws c and trains b and c, iteration 3 only samples d."""
    buffer.begin(1, Draw(("p", "p"), {"set": 2}), [trajectory("a", group="1-g"), trajectory("b", group="long")])
    buffer.record(1, [finished(trajectory("a", segment(0, 5, 0))), unfinished(trajectory("b", segment(0, 6, 6)))])
    buffer.commit(1, ["a"])
    begin(buffer, 2, "c")
    buffer.record(2, [finished(trajectory("b", segment(0, 6, 6), segment(1, 6, 0)), reward=0.0)])
    buffer.record(2, [finished(trajectory("c", segment(1, 9, 0)))])
    buffer.commit(2, ["b", "c"])
    begin(buffer, 3, "d")
    buffer.record(3, [finished(trajectory("d", segment(2, 4, 0)))])


def test_what_was_drawn_is_still_there_after_the_file_is_opened_again(buffer: Buffer, path: Path) -> None:
    begin(buffer, 1, "a", "b")

    with closing(open_buffer(path)) as again:
        assert again.draw_of(1) == Draw(("p",), {"set": 1})
        assert [item.id for item in again.unfinished()] == ["a", "b"]


def test_segments_come_back_as_they_were_sampled(buffer: Buffer) -> None:
    begin(buffer, 1, "a")
    longer = trajectory("a", segment(0, 5, 70_000), group="1-g")

    buffer.record(1, [unfinished(longer)])

    assert buffer.unfinished() == (longer,)


def test_a_later_segment_is_added_to_the_earlier_ones(buffer: Buffer) -> None:
    begin(buffer, 1, "a")
    buffer.record(1, [unfinished(trajectory("a", segment(0, 5), group="1-g"))])
    longer = trajectory("a", segment(0, 5), segment(1, 6), group="1-g")

    buffer.record(2, [unfinished(longer)])

    assert buffer.unfinished() == (longer,)


def test_a_group_is_complete_when_all_its_trajectories_are_scored(buffer: Buffer) -> None:
    begin(buffer, 1, "a", "b")
    buffer.record(1, [finished(trajectory("a", segment(0, 5, 0)))])
    before = buffer.complete_groups()

    buffer.record(1, [finished(trajectory("b", segment(0, 6, 0)), reward=0.0)])

    assert before == ()
    assert [
        [(item.trajectory.id, item.trajectory.reward, item.correct) for item in g] for g in buffer.complete_groups()
    ] == [[("a", 1.0, True), ("b", 0.0, False)]]


def test_a_trained_group_is_never_complete_again(buffer: Buffer) -> None:
    begin(buffer, 1, "a")
    buffer.record(1, [finished(trajectory("a", segment(0, 5, 0)))])

    buffer.commit(1, ["a"])

    assert buffer.complete_groups() == ()
    assert buffer.newest_iteration() == 1


def test_an_iteration_commits_once(buffer: Buffer) -> None:
    begin(buffer, 1, "a")
    buffer.commit(1, [])

    with pytest.raises(sqlite3.IntegrityError):
        buffer.commit(1, ["a"])


def test_a_draw_that_cannot_be_written_whole_is_not_written_at_all(buffer: Buffer) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        begin(buffer, 1, "a", "a")

    assert buffer.draw_of(1) is None
    assert buffer.unfinished() == ()


def test_totals_count_what_the_iteration_finished_and_sampled(buffer: Buffer) -> None:
    run_two_iterations(buffer)

    totals = buffer.totals(2)

    assert (totals.num_finished, totals.mean_reward, totals.mean_response_tokens) == (2, 0.5, 3.0)
    assert (totals.num_unfinished, totals.num_sampled_tokens) == (0, 4)


def test_totals_of_an_iteration_in_which_nothing_finished_are_zero(buffer: Buffer) -> None:
    begin(buffer, 1, "a")

    totals = buffer.totals(1)

    assert (totals.num_finished, totals.mean_reward, totals.mean_response_tokens) == (0, 0.0, 0.0)
    assert totals.num_unfinished == 1


def test_tallies_are_of_committed_iterations(buffer: Buffer) -> None:
    run_two_iterations(buffer)

    assert buffer.tallies() == {"p": Tally(3, 2)}


def test_a_rollback_to_the_newest_commit_keeps_the_interrupted_iteration(buffer: Buffer) -> None:
    run_two_iterations(buffer)

    buffer.rollback(2)

    assert buffer.draw_of(3) is not None
    assert [[item.trajectory.id for item in group] for group in buffer.complete_groups()] == [["d"]]
    assert buffer.newest_iteration() == 2


def test_a_rollback_keeps_what_the_generation_it_returns_to_has_sampled(buffer: Buffer) -> None:
    run_two_iterations(buffer)

    buffer.rollback(1)

    assert [[item.trajectory.id for item in group] for group in buffer.complete_groups()] == [["b"], ["c"]]
    assert buffer.draw_of(2) is not None
    assert buffer.draw_of(3) is None
    assert buffer.tallies() == {"p": Tally(1, 1)}


def test_a_rollback_to_the_beginning_undoes_every_newer_token(buffer: Buffer) -> None:
    run_two_iterations(buffer)

    buffer.rollback(0)

    assert buffer.newest_iteration() == 0
    assert [[item.trajectory.id for item in group] for group in buffer.complete_groups()] == [["a"]]
    assert buffer.unfinished() == (trajectory("b", segment(0, 6, 6), group="long"),)


def test_a_rollback_makes_a_trajectory_unfinished_whose_end_a_lost_generation_sampled(buffer: Buffer) -> None:
    buffer.begin(1, Draw(("p",), {"set": 1}), [trajectory("b", group="long")])
    buffer.record(1, [unfinished(trajectory("b", segment(0, 6, 6), group="long"))])
    buffer.commit(1, [])
    buffer.commit(2, [])
    buffer.record(3, [finished(trajectory("b", segment(0, 6, 6), segment(2, 6, 0), group="long"))])

    buffer.rollback(1)

    assert buffer.unfinished() == (trajectory("b", segment(0, 6, 6), group="long"),)
    assert buffer.unfinished()[0].state is TrajectoryState.UNFINISHED


def test_a_checkpoint_of_an_iteration_that_is_not_committed_is_refused(buffer: Buffer) -> None:
    with pytest.raises(BufferStateError, match="iteration 4 is not committed although a checkpoint of it exists"):
        buffer.rollback(4)


def test_only_the_newest_checkpoints_are_remembered(buffer: Buffer) -> None:
    buffer.commit(1, [])
    buffer.commit(2, [])
    buffer.commit(3, [])
    buffer.set_checkpoint(1, "generation-000001")
    buffer.set_checkpoint(2, "generation-000002")
    buffer.set_checkpoint(3, "generation-000003")

    assert buffer.forget_checkpoints(Retention(keep_last=1)) == ("generation-000002", "generation-000001")
    assert buffer.forget_checkpoints(Retention(keep_last=1)) == ()


def test_a_file_that_is_no_buffer_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "buffer.sqlite"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 20)

    with pytest.raises(BufferStateError, match=r"buffer.sqlite: not a replay buffer"):
        open_buffer(path)


def test_a_file_of_another_version_is_refused(path: Path, buffer: Buffer) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")

    with pytest.raises(BufferStateError, match=r"another version of Tandem \(99\)"):
        open_buffer(path)


def test_a_group_goes_on_without_a_member_that_no_reward_function_could_score(buffer: Buffer) -> None:
    begin(buffer, 1, "a", "b", "c")
    verdicts = {"judge": Verdict(trouble=Trouble.TIMED_OUT, detail="no answer within 30 s")}
    ended = trajectory("c", segment(0, 5, 0), group="1-g").model_copy(
        update={"state": TrajectoryState.UNSCORED, "finish_reason": "stop"}
    )
    buffer.record(1, [Outcome(ended, None, verdicts)])
    buffer.record(1, [finished(trajectory("a", segment(0, 5, 0), group="1-g"))])
    before = buffer.complete_groups()

    buffer.record(1, [finished(trajectory("b", segment(0, 6, 0), group="1-g"), reward=0.0)])

    assert before == ()
    assert [[item.trajectory.id for item in group] for group in buffer.complete_groups()] == [["a", "b"]]
    assert [marks.reward for marks in buffer.marks_of("1-g")] == [1.0, 0.0]
    assert buffer.unfinished() == ()
    buffer.commit(1, ["a", "b"])
    assert buffer.tallies() == {"p": Tally(2, 1)}


def test_a_buffer_of_the_version_before_is_taken_over(buffer: Buffer, path: Path) -> None:
    run_two_iterations(buffer)
    buffer.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(UNDONE_3)

    with closing(open_buffer(path)) as again:
        assert again.tallies() != {}
        assert again.record_of(2) is None
        again.commit(3, [], "{}")
        assert again.record_of(3) == "{}"


def test_a_buffer_of_the_first_version_is_taken_over(buffer: Buffer, path: Path) -> None:
    run_two_iterations(buffer)
    tallies = buffer.tallies()
    buffer.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(UNDONE_3)
        connection.executescript(UNDONE_2)

    with closing(open_buffer(path)) as again:
        assert again.tallies() == tallies
        begin(again, 4, "e")
        again.record(4, [finished(trajectory("e", segment(3, 4, 0), group="4-g"))])

        assert [group[0].trajectory.id for group in again.complete_groups()] == ["d", "e"]


async def test_outcomes_of_many_tasks_are_recorded_side_by_side(buffer: Buffer) -> None:
    begin(buffer, 1, "a", "b", "c")
    work = [buffer.recorded(1, [finished(trajectory(name, segment(0, 4, 0), group="1-g"))]) for name in "abc"]

    await asyncio.gather(*work)

    assert [item.trajectory.id for item in buffer.complete_groups()[0]] == ["a", "b", "c"]


def test_what_a_rollback_undoes_is_tallied_no_more(buffer: Buffer) -> None:
    begin(buffer, 1, "a")
    buffer.record(1, [finished(trajectory("a", segment(0, 4, 0), group="1-g"))])
    buffer.commit(1, ["a"])
    begin(buffer, 2, "b")
    buffer.record(2, [finished(trajectory("b", segment(1, 4, 0), group="2-g"), reward=0.0)])
    buffer.commit(2, ["b"])
    before = buffer.tallies()

    buffer.rollback(1)

    assert before == {"p": Tally(2, 1)}
    assert buffer.tallies() == {"p": Tally(1, 1)}


def test_a_group_commit_of_a_thousand_writes_each_segment_once(buffer: Buffer) -> None:
    names = [f"1-p-{number}" for number in range(1200)]
    buffer.begin(1, Draw(("p",), {}), [trajectory(name) for name in names])
    first = [unfinished(trajectory(name, segment(0, 3))) for name in names]
    buffer.record(1, first)

    buffer.record(2, [finished(trajectory(name, segment(0, 3), segment(1, 4, 5))) for name in names])
    buffer.record(2, first)  # a repetition changes nothing

    (group,) = buffer.complete_groups()
    assert [item.trajectory.id for item in group] == names
    assert {item.trajectory.segments for item in group} == {(segment(0, 3), segment(1, 4, 5))}


def test_a_trajectory_that_comes_twice_in_one_record_is_written_once(buffer: Buffer) -> None:
    buffer.begin(1, Draw(("p",), {}), [trajectory("1-p-0")])
    longer = trajectory("1-p-0", segment(0, 3))

    buffer.record(1, [unfinished(longer), unfinished(longer)])

    (item,) = buffer.unfinished()
    assert item.segments == (segment(0, 3),)


@pytest.mark.parametrize("token_ids", [(), (0, 151_999, 7), (1, 2**31 - 1), (-1, 3)])
def test_whatever_token_ids_were_written_come_back(token_ids: tuple[int, ...]) -> None:
    assert unpack_tokens(pack_tokens(token_ids)) == token_ids
