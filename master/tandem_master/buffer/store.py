"""The replay buffer in SQLite: draws, trajectories and commits of a job, in one file that survives the master."""

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_master.buffer import rows, schema
from tandem_master.errors import BufferStateError
from tandem_master.retention import Retention
from tandem_master.sampling.state import Draw, Tally

BUSY_SECONDS = 5.0
"""Time that a reader of the file, such as the command line, may keep the master waiting."""

COMPLETE = (
    "state = 'Finished' AND group_id IN"
    " (SELECT group_id FROM trajectories WHERE state != 'Trained' GROUP BY group_id HAVING MIN(state = 'Finished'))"
)
"""Trajectories of groups whose every member is scored."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trajectory as one iteration left it. `correct` is None where it is not finished."""

    trajectory: Trajectory
    correct: bool | None


@dataclass(frozen=True, slots=True)
class IterationTotals:
    """What one iteration sampled; means are 0 where nothing finished."""

    num_finished: int
    mean_reward: float
    mean_response_tokens: float
    num_unfinished: int
    num_sampled_tokens: int


class Buffer:
    """One connection, shared by threads one at a time. All methods block: call them by asyncio.to_thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def newest_iteration(self) -> int:
        """Return the number of the last committed iteration, 0 where there is none."""
        with self._reading() as connection:
            return int(connection.execute("SELECT COALESCE(MAX(iteration), 0) FROM iterations").fetchone()[0])

    def rollback(self, generation: int) -> None:
        """Undo everything that came from policies newer than `generation`, the one that the trainer starts from.

        What `generation` itself sampled stays and is used again: iteration generation + 1 is interrupted, not lost.
        """
        next_iteration = generation + 1
        with self._writing(durable=True) as connection:
            known = connection.execute("SELECT 1 FROM iterations WHERE iteration = ?", [generation]).fetchone()
            if generation and known is None:
                raise BufferStateError(
                    f"buffer: iteration {generation} is not committed although a checkpoint of it exists;"
                    " restore buffer.sqlite, or start in an empty state folder"
                )
            connection.execute("DELETE FROM iterations WHERE iteration > ?", [generation])
            connection.execute("DELETE FROM draws WHERE iteration > ?", [next_iteration])
            connection.execute("DELETE FROM trajectories WHERE iteration > ?", [next_iteration])
            connection.execute("DELETE FROM segments WHERE generation > ?", [generation])
            connection.execute(
                "UPDATE trajectories SET state = 'Finished', trained_iteration = NULL WHERE trained_iteration > ?",
                [generation],
            )
            connection.execute(
                "UPDATE trajectories SET state = 'Unfinished', finished_iteration = NULL, finish_reason = NULL,"
                " reward = NULL, correct = NULL WHERE finished_iteration > ?",
                [next_iteration],
            )

    def draw_of(self, iteration: int) -> Draw | None:
        """Return what `iteration` drew, None where it has not drawn yet."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT problem_ids, positions FROM draws WHERE iteration = ?", [iteration]
            ).fetchone()
        return None if row is None else Draw(problem_ids=tuple(json.loads(row[0])), positions=json.loads(row[1]))

    def begin(self, iteration: int, draw: Draw, trajectories: Sequence[Trajectory]) -> None:
        """Write down what `iteration` samples, before anything is asked of a server."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO draws VALUES (?, ?, ?)",
                [iteration, json.dumps(draw.problem_ids), json.dumps(dict(draw.positions))],
            )
            first = int(connection.execute("SELECT COALESCE(MAX(ordinal), 0) FROM trajectories").fetchone()[0]) + 1
            connection.executemany(
                "INSERT INTO trajectories (id, ordinal, iteration, group_id, problem_id, state, prompt_token_ids)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    rows.trajectory_row(ordinal, iteration, trajectory)
                    for ordinal, trajectory in enumerate(trajectories, start=first)
                ],
            )

    def unfinished(self) -> tuple[Trajectory, ...]:
        """Return the trajectories that go on, those without a token included."""
        with self._reading() as connection:
            return rows.read_trajectories(connection, "state = 'Unfinished'")

    def record(self, iteration: int, outcomes: Sequence[Outcome]) -> None:
        """Write what `iteration` sampled, all of it or nothing. On return it survives a kill of the process."""
        with self._writing() as connection:
            for outcome in outcomes:
                _record(connection, iteration, outcome)

    def complete_groups(self) -> tuple[tuple[Outcome, ...], ...]:
        """Return the groups whose every trajectory is scored and that have not been trained, oldest first."""
        with self._reading() as connection:
            trajectories = rows.read_trajectories(connection, COMPLETE)
            correct = dict(connection.execute(f"SELECT id, correct FROM trajectories WHERE {COMPLETE}"))
        groups: dict[str, list[Outcome]] = {}
        for trajectory in trajectories:
            groups.setdefault(trajectory.group, []).append(Outcome(trajectory, bool(correct[trajectory.id])))
        return tuple(tuple(group) for group in groups.values())

    def tallies(self) -> Mapping[str, Tally]:
        """Return tries and successes by problem, over all finished trajectories of committed iterations."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT problem_id, COUNT(*), SUM(correct) FROM trajectories WHERE finished_iteration <="
                " (SELECT COALESCE(MAX(iteration), 0) FROM iterations) GROUP BY problem_id"
            )
            return {problem: Tally(tried, correct) for problem, tried, correct in found}

    def totals(self, iteration: int) -> IterationTotals:
        """Return what `iteration` has sampled so far, before and after a restart of the master."""
        with self._reading() as connection:
            finished, reward = connection.execute(
                "SELECT COUNT(*), COALESCE(AVG(reward), 0.0) FROM trajectories WHERE finished_iteration = ?",
                [iteration],
            ).fetchone()
            tokens = connection.execute(
                "SELECT COALESCE(SUM(num_tokens), 0) FROM segments JOIN trajectories ON id = trajectory_id"
                " WHERE finished_iteration = ?",
                [iteration],
            ).fetchone()[0]
            unfinished = connection.execute("SELECT COUNT(*) FROM trajectories WHERE state = 'Unfinished'").fetchone()[
                0
            ]
            sampled = connection.execute(
                "SELECT COALESCE(SUM(num_tokens), 0) FROM segments WHERE generation = ?", [iteration - 1]
            ).fetchone()[0]
        return IterationTotals(finished, reward, tokens / max(1, finished), unfinished, sampled)

    def commit(self, iteration: int, trained_ids: Sequence[str]) -> None:
        """Make `iteration` count, once: its groups are trained and its successes tallied. Survives a power cut."""
        with self._writing(durable=True) as connection:
            connection.execute("INSERT INTO iterations VALUES (?, ?, NULL)", [iteration, iteration])
            connection.executemany(
                "UPDATE trajectories SET state = 'Trained', trained_iteration = ? WHERE id = ? AND state = 'Finished'",
                [(iteration, trajectory_id) for trajectory_id in trained_ids],
            )

    def set_checkpoint(self, generation: int, folder: str) -> None:
        """Write down that the policy after iteration `generation` is kept in `folder`."""
        with self._writing(durable=True) as connection:
            connection.execute("UPDATE iterations SET checkpoint = ? WHERE generation = ?", [folder, generation])

    def forget_checkpoints(self, retention: Retention) -> tuple[str, ...]:
        """Forget the checkpoints that need not be kept and return their folders, newest first."""
        with self._writing() as connection:
            found = dict(
                connection.execute("SELECT generation, checkpoint FROM iterations WHERE checkpoint IS NOT NULL")
            )
            old = retention.forgotten([*found])
            connection.executemany(
                "UPDATE iterations SET checkpoint = NULL WHERE generation = ?", [(generation,) for generation in old]
            )
        return tuple(found[generation] for generation in old)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._connection

    @contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction. `durable`: it and all before it reach the disk, not only the operating system."""
        with self._lock:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection


def open_buffer(path: Path) -> Buffer:
    """Open the buffer in the file `path`, making it where it is absent. Errors: BufferStateError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(f"BEGIN; {schema.TABLES} PRAGMA user_version = {schema.VERSION}; COMMIT;")
        elif version != schema.VERSION:
            raise BufferStateError(
                f"{path}: written by another version of Tandem ({version}); use an empty state folder"
            )
    except sqlite3.DatabaseError as error:
        connection.close()
        raise BufferStateError(f"{path}: not a replay buffer ({error}); use an empty state folder") from error
    except BufferStateError:
        connection.close()
        raise
    return Buffer(connection)


def _record(connection: sqlite3.Connection, iteration: int, outcome: Outcome) -> None:
    trajectory = outcome.trajectory
    known = connection.execute("SELECT COUNT(*) FROM segments WHERE trajectory_id = ?", [trajectory.id]).fetchone()[0]
    connection.executemany(
        "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)",
        [
            rows.segment_row(trajectory.id, position, segment)
            for position, segment in enumerate(trajectory.segments)
            if position >= known
        ],
    )
    if trajectory.state is TrajectoryState.FINISHED:
        connection.execute(
            "UPDATE trajectories SET state = 'Finished', finished_iteration = ?, finish_reason = ?, reward = ?,"
            " correct = ? WHERE id = ? AND state = 'Unfinished'",
            [iteration, trajectory.finish_reason, trajectory.reward, int(bool(outcome.correct)), trajectory.id],
        )
