"""What a job has come to, and in what two jobs that must be equal differ."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tandem_api.history import IterationRecord, Record, RunStarted
from tandem_master.buffer.store import open_buffer
from tandem_master.sampling.state import Tally
from tests.e2e.jobs import iterations

TABLES = {
    "draws": "SELECT * FROM draws ORDER BY iteration",
    "trajectories": "SELECT * FROM trajectories ORDER BY ordinal",
    "segments": "SELECT * FROM segments ORDER BY trajectory_id, position",
    "iterations": "SELECT iteration, generation FROM iterations ORDER BY iteration",
}
TIMES = ("at", "seconds", "tokens_per_second")


@dataclass(frozen=True)
class End:
    """What must not differ."""

    tables: Mapping[str, list[tuple[object, ...]]]
    tallies: Mapping[str, Tally]
    policy: str
    """Digest of the weights in the policy folder."""
    iterations: Mapping[int, dict[str, object]]
    """The last record of each iteration, without its times."""


def end_of(run: Path) -> End:
    with closing(sqlite3.connect(run / "buffer.sqlite")) as connection:
        tables = {name: connection.execute(query).fetchall() for name, query in TABLES.items()}
    with closing(open_buffer(run / "buffer.sqlite")) as buffer:
        tallies = buffer.tallies()
    policy = sha256((run / "policy" / "model.safetensors").read_bytes()).hexdigest()
    return End(tables, tallies, policy, {record.iteration: untimed(record) for record in iterations(run)})


def untimed(record: IterationRecord) -> dict[str, object]:
    return record.model_dump(exclude=set(TIMES))


def unequal_parts(end: End, expected: End) -> list[str]:
    """Return what differs, by name; tables by their own."""
    tables = [name for name in TABLES if end.tables[name] != expected.tables[name]]
    others = [name for name in ("tallies", "policy", "iterations") if getattr(end, name) != getattr(expected, name)]
    return [*tables, *others]


def committed_twice(records: Sequence[Record]) -> list[int]:
    """Return iterations that were committed out of turn: again, although no master had gone back before them."""
    done, again = 0, []
    for record in records:
        if isinstance(record, RunStarted):
            done = record.iteration
        elif isinstance(record, IterationRecord):
            again += [record.iteration] if record.iteration != done + 1 else []
            done = record.iteration
    return again
