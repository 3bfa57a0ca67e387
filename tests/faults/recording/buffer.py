"""Reads the master's buffer, and tells what has changed since the last look."""

import hashlib
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from tests.faults.history import BufferSnapshot, SegmentRow, TrajectoryRow

BUSY_SECONDS = 5.0
CERTAIN = 1e-6
"""A log-probability may be above 0 by rounding, but not by more than this."""
TRAJECTORIES = "SELECT id, iteration, group_id, state, finished_iteration, trained_iteration FROM trajectories"
SEGMENTS = (
    "SELECT trajectory_id, generation, num_tokens, token_ids, logprobs FROM segments ORDER BY trajectory_id, position"
)


class BufferReader:
    """Makes snapshots of one buffer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, TrajectoryRow] = {}

    def snapshot(self) -> BufferSnapshot | None:
        """Return what has changed; None before there is a buffer. It blocks."""
        if not self._path.exists():
            return None
        at = time.time()
        with closing(sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            trajectories = connection.execute(TRAJECTORIES).fetchall()
            segments = self._read_segments(connection)
            committed = tuple(sorted(number for (number,) in connection.execute("SELECT iteration FROM iterations")))
        rows = {row[0]: _trajectory_row(segments.get(row[0], ()), *row) for row in trajectories}
        changed = tuple(row for key, row in rows.items() if self._rows.get(key) != row)
        vanished = tuple(key for key in self._rows if key not in rows)
        self._rows = rows
        return BufferSnapshot(at, changed, vanished, committed)

    def _read_segments(self, connection: sqlite3.Connection) -> Mapping[str, list[SegmentRow]]:
        found: dict[str, list[SegmentRow]] = {}
        for key, *raw in connection.execute(SEGMENTS):
            found.setdefault(key, []).append(_segment_row(*raw))
        return found


def _trajectory_row(
    segments: Sequence[SegmentRow],
    key: str,
    iteration: int,
    group: str,
    state: str,
    finished_iteration: int | None,
    trained_iteration: int | None,
) -> TrajectoryRow:
    return TrajectoryRow(key, iteration, group, state, finished_iteration, trained_iteration, tuple(segments))


def _segment_row(generation: int, num_tokens: int, token_ids: bytes, logprobs: bytes) -> SegmentRow:
    numbers = np.frombuffer(logprobs, dtype="<f8")
    num_bad = int(np.count_nonzero(~(np.isfinite(numbers) & (numbers <= CERTAIN))))
    digest = hashlib.blake2b(token_ids + logprobs, digest_size=8).hexdigest()
    return SegmentRow(generation, num_tokens, len(token_ids) // 4, len(numbers), num_bad, digest)
