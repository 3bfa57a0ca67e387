"""The replay buffer in SQLite: draws, trajectories and commits of a job, in one file that survives the master."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_master.buffer import rows, schema
from tandem_master.buffer.outcome import Marks, Outcome
from tandem_master.buffer.recording import record_all
from tandem_master.database import Database, open_database
from tandem_master.errors import BufferStateError
from tandem_master.grouped import Grouped
from tandem_master.retention import Retention
from tandem_master.sampling.state import Draw, Tally

COMPLETE = (
    "state = 'Finished' AND group_id IN"
    " (SELECT group_id FROM trajectories WHERE state IN ('Finished', 'Unfinished')"
    " GROUP BY group_id HAVING MIN(state = 'Finished'))"
)
"""Trajectories of groups whose every member is scored, but for those that no reward function could score."""
MARKS = "reward, (SELECT COALESCE(SUM(num_tokens), 0) FROM segments WHERE trajectory_id = id), correct"
"""Columns of Marks."""
TALLY = (
    "INSERT INTO tallies SELECT problem_id, COUNT(correct), SUM(correct) FROM trajectories WHERE {}"
    " GROUP BY problem_id HAVING COUNT(correct) > 0"
    " ON CONFLICT DO UPDATE SET num_tried = num_tried + excluded.num_tried,"
    " num_correct = num_correct + excluded.num_correct"
)
"""Adds the trajectories for which an expression holds to the tallies."""
COMMITTED = "finished_iteration <= (SELECT COALESCE(MAX(iteration), 0) FROM iterations)"

STEPS = {0: schema.TABLES, 1: schema.FROM_1 + schema.FROM_2, 2: schema.FROM_2}
"""What makes this version's tables of another version's; 0: of none."""


@dataclass(frozen=True, slots=True)
class IterationTotals:
    """What one iteration sampled; means are 0 where nothing finished."""

    num_finished: int
    mean_reward: float
    mean_response_tokens: float
    num_unfinished: int
    num_sampled_tokens: int
    num_repeats: int
    """Of those that finished, trajectories that repeated themselves."""


class Buffer:
    """One connection, shared by threads one at a time. All but `recorded` block: call them by asyncio.to_thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._records: Grouped[tuple[int, Sequence[Outcome]], None] = Grouped(self._record_all, "group commit")

    def close(self) -> None:
        self._database.close()

    def newest_iteration(self) -> int:
        """Return the number of the last committed iteration, 0 where there is none."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT COALESCE(MAX(iteration), 0) FROM iterations").fetchone()[0])

    def rollback(self, generation: int) -> None:
        """Undo everything that came from policies newer than `generation`, the one that the trainer starts from.

        What `generation` itself sampled stays and is used again: iteration generation + 1 is interrupted, not lost.
        """
        next_iteration = generation + 1
        with self._database.writing(durable=True) as connection:
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
                " reward = NULL, correct = NULL, terms = NULL WHERE finished_iteration > ?",
                [next_iteration],
            )
            connection.execute("DELETE FROM tallies")
            connection.execute(TALLY.format(COMMITTED))

    def draw_of(self, iteration: int) -> Draw | None:
        """Return what `iteration` drew, None where it has not drawn yet."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT problem_ids, positions FROM draws WHERE iteration = ?", [iteration]
            ).fetchone()
        return None if row is None else Draw(problem_ids=tuple(json.loads(row[0])), positions=json.loads(row[1]))

    def begin(self, iteration: int, draw: Draw, trajectories: Sequence[Trajectory]) -> None:
        """Write down what `iteration` samples, before anything is asked of a server."""
        with self._database.writing() as connection:
            connection.execute(
                "INSERT INTO draws VALUES (?, ?, ?)",
                [iteration, json.dumps(draw.problem_ids), json.dumps(dict(draw.positions))],
            )
            _insert(connection, iteration, trajectories)

    def draw_more(self, iteration: int, draw: Draw, trajectories: Sequence[Trajectory]) -> None:
        """Write down a longer draw of `iteration`, and the trajectories of what was added to it."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE draws SET problem_ids = ?, positions = ? WHERE iteration = ?",
                [json.dumps(draw.problem_ids), json.dumps(dict(draw.positions)), iteration],
            )
            _insert(connection, iteration, trajectories)

    def complete_group_ids(self) -> tuple[str, ...]:
        """Return the groups that complete_groups returns, by name."""
        with self._database.reading() as connection:
            found = connection.execute(f"SELECT group_id FROM trajectories WHERE {COMPLETE} GROUP BY group_id")
            return tuple(group for (group,) in found)

    def marks_of(self, group: str) -> tuple[Marks, ...]:
        """Return the marks of every member of a group, none where one is not finished or was trained or rejected."""
        with self._database.reading() as connection:
            query = f"SELECT {MARKS}, state FROM trajectories WHERE group_id = ? AND state != 'Unscored'"
            found = connection.execute(query, [group]).fetchall()
        if any(state != TrajectoryState.FINISHED for *_, state in found):
            return ()
        return tuple(Marks(reward, tokens, bool(correct)) for reward, tokens, correct, _ in found)

    def marks_in(self, iteration: int) -> tuple[tuple[Marks, ...], ...]:
        """Return the marks of each group that `iteration` trained or rejected."""
        with self._database.reading() as connection:
            found = connection.execute(
                f"SELECT group_id, {MARKS} FROM trajectories WHERE trained_iteration = ?", [iteration]
            ).fetchall()
        groups: dict[str, list[Marks]] = {}
        for group, reward, tokens, correct in found:
            groups.setdefault(group, []).append(Marks(reward, tokens, bool(correct)))
        return tuple(tuple(group) for group in groups.values())

    def reject(self, iteration: int, group: str) -> int:
        """Leave a complete group out of training, and return how many `iteration` has left out by now."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE trajectories SET state = 'Rejected', trained_iteration = ?"
                " WHERE group_id = ? AND state = 'Finished'",
                [iteration, group],
            )
            return _num_rejected(connection, iteration)

    def num_rejected(self, iteration: int) -> int:
        """Return how many groups `iteration` has left out."""
        with self._database.reading() as connection:
            return _num_rejected(connection, iteration)

    def unfinished(self) -> tuple[Trajectory, ...]:
        """Return the trajectories that go on, those without a token included."""
        with self._database.reading() as connection:
            return rows.read_trajectories(connection, "state = 'Unfinished'")

    def record(self, iteration: int, outcomes: Sequence[Outcome]) -> None:
        """Write what `iteration` sampled, all of it or nothing. On return it survives a kill of the process."""
        self._record_all([(iteration, outcomes)])

    def num_untouched_groups(self) -> int:
        """Return how many groups have an unfinished member and no token yet."""
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT COUNT(*) FROM (SELECT group_id FROM trajectories WHERE state = 'Unfinished'"
                " EXCEPT SELECT group_id FROM trajectories JOIN segments ON trajectory_id = id)"
            )
            return int(found.fetchone()[0])

    async def recorded(self, iteration: int, outcomes: Sequence[Outcome]) -> None:
        """Do as record, for many tasks at once: what comes while a transaction is written shares the next one."""
        await self._records.done((iteration, outcomes))

    def _record_all(self, records: Sequence[tuple[int, Sequence[Outcome]]]) -> Sequence[None]:
        with self._database.writing() as connection:
            record_all(connection, records)
        return [None] * len(records)

    def complete_groups(self) -> tuple[tuple[Outcome, ...], ...]:
        """Return the groups whose every trajectory is scored and that have not been trained, oldest first."""
        with self._database.reading() as connection:
            trajectories = rows.read_trajectories(connection, COMPLETE)
            correct = dict(connection.execute(f"SELECT id, correct FROM trajectories WHERE {COMPLETE}"))
        groups: dict[str, list[Outcome]] = {}
        for trajectory in trajectories:
            groups.setdefault(trajectory.group, []).append(Outcome(trajectory, bool(correct[trajectory.id])))
        return tuple(tuple(group) for group in groups.values())

    def tallies(self) -> Mapping[str, Tally]:
        """Return tries and successes by problem, over all scored trajectories of committed iterations."""
        with self._database.reading() as connection:
            found = connection.execute("SELECT problem_id, num_tried, num_correct FROM tallies")
            return {problem: Tally(tried, correct) for problem, tried, correct in found}

    def totals(self, iteration: int) -> IterationTotals:
        """Return what `iteration` has sampled so far, before and after a restart of the master."""
        with self._database.reading() as connection:
            finished, reward, repeats = connection.execute(
                "SELECT COUNT(*), COALESCE(AVG(reward), 0.0), COUNT(*) FILTER (WHERE finish_reason = 'repeat')"
                " FROM trajectories WHERE finished_iteration = ?",
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
        return IterationTotals(finished, reward, tokens / max(1, finished), unfinished, sampled, repeats)

    def commit(self, iteration: int, trained_ids: Sequence[str], record: str | None = None) -> None:
        """Make `iteration` count, once: its groups are trained and its successes tallied. Survives a power cut.

        `record`: what the diary is about to be told of it. record_of returns it to a master that finds it missing.
        """
        with self._database.writing(durable=True) as connection:
            connection.execute("INSERT INTO iterations VALUES (?, ?, NULL, ?)", [iteration, iteration, record])
            connection.execute(TALLY.format("finished_iteration = ?"), [iteration])
            connection.executemany(
                "UPDATE trajectories SET state = 'Trained', trained_iteration = ? WHERE id = ? AND state = 'Finished'",
                [(iteration, trajectory_id) for trajectory_id in trained_ids],
            )

    def record_of(self, iteration: int) -> str | None:
        """Return what the diary was to be told of a committed iteration, None where that is not known."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT record FROM iterations WHERE iteration = ?", [iteration]).fetchone()
        return None if row is None else row[0]

    def set_checkpoint(self, generation: int, folder: str) -> None:
        """Write down that the policy after iteration `generation` is kept in `folder`."""
        with self._database.writing(durable=True) as connection:
            connection.execute("UPDATE iterations SET checkpoint = ? WHERE generation = ?", [folder, generation])

    def forget_checkpoints(self, retention: Retention) -> tuple[str, ...]:
        """Forget the checkpoints that need not be kept and return their folders, newest first."""
        with self._database.writing() as connection:
            found = dict(
                connection.execute("SELECT generation, checkpoint FROM iterations WHERE checkpoint IS NOT NULL")
            )
            old = retention.forgotten([*found])
            connection.executemany(
                "UPDATE iterations SET checkpoint = NULL WHERE generation = ?", [(generation,) for generation in old]
            )
        return tuple(found[generation] for generation in old)


def open_buffer(path: Path) -> Buffer:
    """Open the buffer in the file `path`, making it where it is absent. Errors: BufferStateError."""
    bring_up = partial(_bring_up, path=path)
    return Buffer(open_database(path, bring_up, "not a replay buffer", "use an empty state folder"))


def _bring_up(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of this version, from none or from those of an older one. Errors: BufferStateError."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == schema.VERSION:
        return
    if version not in STEPS:
        raise BufferStateError(f"{path}: written by another version of Tandem ({version}); use an empty state folder")
    made = f"{STEPS[version]} {schema.INDICES} {schema.TALLIES} {TALLY.format(COMMITTED)};"
    connection.executescript(f"BEGIN; {made} PRAGMA user_version = {schema.VERSION}; COMMIT;")


def _insert(connection: sqlite3.Connection, iteration: int, trajectories: Sequence[Trajectory]) -> None:
    first = int(connection.execute("SELECT COALESCE(MAX(ordinal), 0) FROM trajectories").fetchone()[0]) + 1
    connection.executemany(
        "INSERT INTO trajectories (id, ordinal, iteration, group_id, problem_id, state, prompt_token_ids)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            rows.trajectory_row(ordinal, iteration, trajectory)
            for ordinal, trajectory in enumerate(trajectories, start=first)
        ],
    )


def _num_rejected(connection: sqlite3.Connection, iteration: int) -> int:
    found = connection.execute(
        "SELECT COUNT(DISTINCT group_id) FROM trajectories WHERE state = 'Rejected' AND trained_iteration = ?",
        [iteration],
    )
    return int(found.fetchone()[0])
