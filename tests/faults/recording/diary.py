"""Follows metrics.jsonl, the diary of a run."""

import asyncio
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

from tandem_api.history import RECORD, IterationRecord, RunStarted
from tests.faults.history import DiaryEntry

POLL_SECONDS = 0.02


class DiaryRecorder:
    """All complete lines so far, with the times at which they were seen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset_bytes = 0
        self.entries: list[DiaryEntry] = []
        self.listeners: list[Callable[[DiaryEntry], None]] = []

    def commits_since(self, at: float) -> list[DiaryEntry]:
        """Return the committed iterations that were seen after a moment, oldest first."""
        newest = list(takewhile(lambda entry: entry.seen_at > at, reversed(self.entries)))
        return [entry for entry in reversed(newest) if isinstance(entry.record, IterationRecord)]

    def has_start_since(self, at: float) -> bool:
        """Tell whether a master has said since a moment where it begins; before that it may roll back unsaid."""
        return any(isinstance(entry.record, RunStarted) and entry.seen_at > at for entry in self.entries)

    async def run(self) -> None:
        """Record until cancelled."""
        while True:
            self.read()
            await asyncio.sleep(POLL_SECONDS)

    def read(self) -> None:
        """Take in the lines that have been completed."""
        if not self._path.exists() or self._path.stat().st_size <= self._offset_bytes:
            return
        with self._path.open("rb") as file:
            file.seek(self._offset_bytes)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._offset_bytes += len(complete)
        for line in complete.splitlines():
            entry = DiaryEntry(time.time(), RECORD.validate_json(line))
            self.entries.append(entry)
            for listener in self.listeners:
                listener(entry)
