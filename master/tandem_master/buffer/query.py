"""Questions to the replay buffer of a job, running or ended, from outside: its file is only read."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_master.buffer import rows, schema
from tandem_master.errors import BufferStateError

BUSY_SECONDS = 10.0
NUM_TOKENS = "(SELECT COALESCE(SUM(num_tokens), 0) FROM segments WHERE trajectory_id = trajectories.id)"
FIRST, LAST = (
    f"(SELECT {bound}(generation) FROM segments WHERE trajectory_id = trajectories.id)" for bound in ("MIN", "MAX")
)
COLUMNS = (
    f"id, problem_id, state, iteration, finished_iteration, finish_reason, reward, correct, terms, {NUM_TOKENS},"
    f" {FIRST}, {LAST}"
)


class Order(StrEnum):
    """By what trajectories are sorted."""

    NEWEST = "newest"
    """The last that was drawn first."""
    REWARD = "reward"
    """The highest first; those without a reward last."""
    LENGTH = "length"
    """The longest response first."""


ORDERS = {Order.NEWEST: "ordinal", Order.REWARD: "reward", Order.LENGTH: NUM_TOKENS}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which trajectories are meant; None: all."""

    state: TrajectoryState | None = None
    problem_id: str | None = None
    iteration: int | None = None
    """That drew it or in which it finished."""
    correct: bool | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One trajectory in a list."""

    id: str
    problem_id: str
    state: TrajectoryState
    iteration: int
    """That drew it."""
    finished_iteration: int | None
    finish_reason: str | None
    reward: float | None
    correct: bool | None
    terms: Mapping[str, Mapping[str, object]]
    """What each reward term said: its value, or its trouble and the detail."""
    num_tokens: int
    """Of the response."""
    first_generation: int | None
    """That sampled its first token; None before that."""
    last_generation: int | None


class Reader:
    """The buffer of one job, read only; `open_reader` makes it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def count(self, wanted: Filter) -> int:
        """Return how many trajectories are meant."""
        condition, values = _condition(wanted)
        found = self._connection.execute(f"SELECT COUNT(*) FROM trajectories WHERE {condition}", values)
        return int(found.fetchone()[0])

    def listed(self, wanted: Filter, order: Order, *, reverse: bool = False, most: int = -1) -> Iterator[Listed]:
        """Yield what is meant, in order; at most so many, all where negative."""
        condition, values = _condition(wanted)
        direction = "ASC" if reverse else "DESC"
        query = (
            f"SELECT {COLUMNS} FROM trajectories WHERE {condition}"
            f" ORDER BY {ORDERS[order]} {direction} NULLS LAST, ordinal {direction} LIMIT ?"
        )
        for (
            name,
            problem,
            state,
            drawn,
            ended,
            why,
            reward,
            correct,
            said,
            tokens,
            first,
            last,
        ) in self._connection.execute(query, [*values, most]):
            marks, terms = None if correct is None else bool(correct), json.loads(said) if said else {}
            yield Listed(
                *(name, problem, TrajectoryState(state), drawn, ended, why, reward, marks, terms, tokens, first, last)
            )

    def trajectory(self, name: str) -> Trajectory | None:
        """Return one trajectory with its segments, None where there is none of that id."""
        found = rows.read_trajectories(self._connection, "id = ?", [name])
        return found[0] if found else None


@contextmanager
def open_reader(path: Path) -> Iterator[Reader]:
    """Open the buffer in the file `path`. Errors: BufferStateError."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as opened:
            version = opened.execute("PRAGMA user_version").fetchone()[0]
            if version != schema.VERSION:
                raise BufferStateError(f"{path}: written by another version of Tandem ({version}); use that one")
            yield Reader(opened)
    except sqlite3.Error as error:
        raise BufferStateError(f"{path}: cannot be read as a replay buffer ({error})") from error


def _condition(wanted: Filter) -> tuple[str, list[object]]:
    """Return the filter as an expression of SQL, and the values of its question marks."""
    parts: list[tuple[str, object]] = [
        ("state = ?", wanted.state),
        ("problem_id = ?", wanted.problem_id),
        ("correct = ?", wanted.correct),
        ("finish_reason = ?", wanted.finish_reason),
    ]
    chosen = [(text, value) for text, value in parts if value is not None]
    condition, values = [text for text, _ in chosen], [value for _, value in chosen]
    if wanted.iteration is not None:
        condition.append("(iteration = ? OR finished_iteration = ?)")
        values += [wanted.iteration, wanted.iteration]
    return " AND ".join(condition) or "TRUE", values
