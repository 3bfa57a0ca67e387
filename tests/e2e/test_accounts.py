"""What the accounts of a replay buffer find."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tandem_api.history import IterationRecord
from tandem_master.buffer.store import open_buffer
from tandem_master.sampling.state import Draw
from tests.e2e.accounts import unaccounted
from tests.faults.written import committed
from tests.tandem_master.texts import finished, segment, trajectory, unfinished

OLD, NEW, LEFT_OUT = "1-p-0", "2-p-0", "2-q-0"
"""Groups."""


def record(iteration: int, **figures: int) -> IterationRecord:
    return committed(iteration).model_copy(update=figures)


RECORDS = (
    record(1, finished=1, unfinished=1, trained=0, sampled_tokens=3),
    record(2, finished=5, unfinished=0, trained=3, sampled_tokens=6),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A buffer of two committed iterations: the first carries b over, the second trains a to d and leaves e and f out;
    a third has been drawn.
    """
    path = tmp_path / "buffer.sqlite"
    a, b = trajectory("a", segment(0, 5), group=OLD), trajectory("b", segment(0, 5, 6), group=OLD)
    c, d = trajectory("c", segment(1, 5), group=NEW), trajectory("d", segment(1, 5, 6), group=NEW)
    e, f = (trajectory(name, segment(1, 5), group=LEFT_OUT, problem_id="q") for name in "ef")
    with closing(open_buffer(path)) as buffer:
        buffer.begin(1, Draw(("p",), {"set": 1}), [trajectory(name, group=OLD) for name in "ab"])
        buffer.record(1, [finished(a), unfinished(b)])
        buffer.commit(1, [])
        drawn = [trajectory(name, group=NEW) for name in "cd"]
        drawn += [trajectory(name, group=LEFT_OUT, problem_id="q") for name in "ef"]
        buffer.begin(2, Draw(("p", "q"), {"set": 3}), drawn)
        longer = trajectory("b", *b.segments, segment(1, 7), group=OLD)
        buffer.record(2, [finished(longer, reward=0.0), *map(finished, (c, d, e, f))])
        buffer.reject(2, LEFT_OUT)
        buffer.commit(2, ["a", "b", "c", "d"])
        buffer.begin(3, Draw(("p",), {"set": 4}), [trajectory(name, group="3-p-0") for name in "gh"])
    return path


def found_in(path: Path, damage: str = "") -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(damage)
    return unaccounted(path, RECORDS, samples=2, budget=2)


def test_a_buffer_in_order_is_accounted_for(path: Path) -> None:
    assert found_in(path) == []


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DELETE FROM iterations WHERE iteration = 1", "1 is missing among the committed iterations"),
        ("DELETE FROM trajectories WHERE id = 'h'", "3, p, 2 was drawn, and is not there"),
        ("UPDATE draws SET problem_ids = '[]' WHERE iteration = 3", "3, p, 2 is there, and was not drawn"),
        (
            "UPDATE trajectories SET state = 'Finished' WHERE id = 'a'",
            "a, Finished is in a state that its own columns contradict",
        ),
        (
            "UPDATE trajectories SET trained_iteration = 3 WHERE group_id = '2-p-0'",
            "c is trained or left out by an iteration that is not committed",
        ),
        ("UPDATE trajectories SET trained_iteration = 1 WHERE id = 'a'", "1-p-0 is trained in parts"),
        (
            "UPDATE trajectories SET state = 'Finished', trained_iteration = NULL WHERE group_id = '2-p-0'",
            "2-p-0 was complete, and was never trained",
        ),
        (
            "UPDATE segments SET logprobs = X'' WHERE trajectory_id = 'c'",
            "c has tokens without log-probabilities, or none",
        ),
        ("DELETE FROM segments WHERE trajectory_id = 'c'", "c has tokens without log-probabilities, or none"),
        ("DELETE FROM segments WHERE trajectory_id = 'b' AND position = 0", "b lacks a segment"),
        (
            "UPDATE segments SET generation = 2 WHERE trajectory_id = 'c'",
            "c, 2 was sampled by a generation that came before it or after its end",
        ),
        (
            "UPDATE segments SET generation = 0 WHERE trajectory_id = 'b'",
            "b, 0 has sampled more than an iteration's budget",
        ),
        ("UPDATE tallies SET num_correct = 9 WHERE problem_id = 'p'", "p, 4, 3 is not tallied as it was scored"),
        ("INSERT INTO tallies VALUES ('r', 1, 1)", "r is tallied, and was never scored"),
        (
            "UPDATE trajectories SET finished_iteration = 2 WHERE id = 'a'",
            "iteration 1: finished: 1 told, 0 there",
        ),
        ("INSERT INTO iterations VALUES (3, 3, NULL, NULL)", "iteration 3 was not told of"),
    ],
)
def test_whatever_does_not_add_up_is_told(path: Path, damage: str, told: str) -> None:
    assert told in found_in(path, damage)
