"""Writing down what was sampled, in few long statements.

Around each statement the connection lets go of the interpreter, and gets it back only when the event loop's thread
gives way: with a statement for every row, writer and loop would wait for each other as often.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from msgspec.json import encode

from tandem_api.trajectory import TrajectoryState
from tandem_master.buffer import rows
from tandem_master.buffer.outcome import Outcome

MOST_ROWS = 500
"""Of one statement: SQLite takes 32,766 values."""
COUNTS = (
    "SELECT json_group_object(value, (SELECT COUNT(*) FROM segments WHERE trajectory_id = value)) FROM json_each(?)"
)
INSERT = "INSERT INTO segments VALUES {}"
END = (
    "WITH ended (id, state, iteration, reason, reward, correct, terms) AS (VALUES {})"
    " UPDATE trajectories SET state = ended.state, finished_iteration = ended.iteration, finish_reason = ended.reason,"
    " reward = ended.reward, correct = ended.correct, terms = ended.terms"
    # The plus keeps the index of states out of it: most trajectories are in this one, and an id finds its row at once.
    " FROM ended WHERE trajectories.id = ended.id AND +trajectories.state = 'Unfinished'"
)
ENDED = (TrajectoryState.FINISHED, TrajectoryState.UNSCORED)


def record_all(connection: sqlite3.Connection, records: Sequence[tuple[int, Sequence[Outcome]]]) -> None:
    """Write what iterations sampled: segments that are not there yet, and what ended. Part of a transaction."""
    outcomes = [outcome for _, some in records for outcome in some]
    _write(connection, INSERT, _new_segments(outcomes, _num_known(connection, outcomes)))
    ended = (_end(iteration, outcome) for iteration, some in records for outcome in some if _has_ended(outcome))
    _write(connection, END, ended)


def _has_ended(outcome: Outcome) -> bool:
    return outcome.trajectory.state in ENDED


def _num_known(connection: sqlite3.Connection, outcomes: Sequence[Outcome]) -> Mapping[str, int]:
    """Return how many segments of each trajectory are there already."""
    ids = json.dumps([outcome.trajectory.id for outcome in outcomes])
    known: Mapping[str, int] = json.loads(connection.execute(COUNTS, [ids]).fetchone()[0])
    return known


def _new_segments(outcomes: Sequence[Outcome], num_known: Mapping[str, int]) -> Iterable[tuple[object, ...]]:
    written = dict(num_known)
    for trajectory in (outcome.trajectory for outcome in outcomes):
        first = written[trajectory.id]
        for position, segment in enumerate(trajectory.segments[first:], start=first):
            yield rows.segment_row(trajectory.id, position, segment)
        written[trajectory.id] = max(first, len(trajectory.segments))


def _end(iteration: int, outcome: Outcome) -> tuple[object, ...]:
    trajectory = outcome.trajectory
    correct = None if trajectory.state is TrajectoryState.UNSCORED else int(bool(outcome.correct))
    return (
        *(trajectory.id, trajectory.state.value, iteration, trajectory.finish_reason, trajectory.reward, correct),
        encode(outcome.terms).decode(),
    )


def _write(connection: sqlite3.Connection, statement: str, written: Iterable[tuple[object, ...]]) -> None:
    """Run a statement for all rows, many at once. `statement` has a place for them."""
    waiting = list(written)
    for begin in range(0, len(waiting), MOST_ROWS):
        some = waiting[begin : begin + MOST_ROWS]
        places = ", ".join([f"({', '.join('?' * len(some[0]))})"] * len(some))
        connection.execute(statement.format(places), [value for row in some for value in row])
