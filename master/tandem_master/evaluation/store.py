"""Samples and results of evaluations in SQLite, in a file of their own: no sampler and no trainer reads it."""

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tandem_api.history import EvaluationRecord
from tandem_master.database import Database, open_database
from tandem_master.errors import BufferStateError
from tandem_master.evaluation.estimate import Sample

VERSION = 1
TABLES = """
CREATE TABLE samples (
    generation    INTEGER NOT NULL,
    name          TEXT NOT NULL,            -- of the held-out set
    digest        TEXT NOT NULL,            -- of the set as it was asked
    problem_id    TEXT NOT NULL,
    number        INTEGER NOT NULL,
    num_tokens    INTEGER NOT NULL,
    finish_reason TEXT NOT NULL,
    reward        REAL,                     -- NULL: a reward function said nothing
    correct       INTEGER NOT NULL,
    PRIMARY KEY (generation, name, digest, problem_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE results (
    generation INTEGER NOT NULL,
    name       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    record     TEXT NOT NULL,               -- EvaluationRecord, as metrics.jsonl has it
    PRIMARY KEY (generation, name)
) STRICT, WITHOUT ROWID;
"""


class EvaluationStore:
    """One connection, shared by threads one at a time. All methods block: call them by asyncio.to_thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self) -> None:
        self._database.close()

    def rollback(self, generation: int) -> None:
        """Forget what came of policies newer than `generation`: their numbers will be given again, to others."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM samples WHERE generation > ?", [generation])
            connection.execute("DELETE FROM results WHERE generation > ?", [generation])

    def record(self, name: str, digest: str, generation: int, samples: Sequence[Sample]) -> None:
        """Write samples; on return they survive a kill of the process. One that is there already stays as it is."""
        with self._database.writing() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *(generation, name, digest, sample.problem_id, sample.number),
                        *(sample.num_tokens, sample.finish_reason, sample.reward, int(sample.correct)),
                    )
                    for sample in samples
                ],
            )

    def samples(self, name: str, digest: str, generation: int) -> tuple[Sample, ...]:
        """Return the samples of one evaluation so far, by problem and number."""
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT problem_id, number, num_tokens, finish_reason, reward, correct FROM samples"
                " WHERE generation = ? AND name = ? AND digest = ? ORDER BY problem_id, number",
                [generation, name, digest],
            ).fetchall()
        return tuple(
            Sample(problem, number, tokens, why, reward, bool(correct))
            for problem, number, tokens, why, reward, correct in found
        )

    def finish(self, digest: str, record: EvaluationRecord) -> bool:
        """Write the result of one evaluation; return whether it is the first of that set and generation.

        It survives a power cut. A second one changes nothing.
        """
        with self._database.writing(durable=True) as connection:
            added = connection.execute(
                "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?)",
                [record.generation, record.name, digest, record.model_dump_json()],
            )
            return added.rowcount == 1

    def results(self, name: str | None = None, digest: str | None = None) -> tuple[EvaluationRecord, ...]:
        """Return the results, by generation: all, those of one set, or those that can be compared with one another."""
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT record FROM results WHERE name = COALESCE(?, name) AND digest = COALESCE(?, digest)"
                " ORDER BY generation, name",
                [name, digest],
            ).fetchall()
        return tuple(EvaluationRecord.model_validate_json(record) for (record,) in found)


def open_store(path: Path) -> EvaluationStore:
    """Open the file `path`, making it where it is absent. Errors: BufferStateError."""
    return EvaluationStore(open_database(path, partial(_bring_up, path=path), "holds no evaluations", "move it away"))


def _bring_up(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise BufferStateError(f"{path}: written by another version of Tandem ({version}); move it away")
