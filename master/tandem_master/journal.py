"""Where the records of a run go: the diary, and whoever looks on beside it."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tandem_api.history import IterationRecord, Record
from tandem_master.history import History
from tandem_master.trackers import Trackers


class Journal:
    """Writes records, off the event loop."""

    def __init__(
        self, history: History, trackers: Trackers | None = None, observe: Callable[[Record], None] | None = None
    ) -> None:
        """`observe`: gets every record after it was written, from any thread."""
        self._history = history
        self._trackers = trackers
        self._observe = observe

    async def write(self, record: Record) -> None:
        """Append `record` to the diary, and hand it on."""
        await asyncio.to_thread(self._write, record)

    async def complete(self, record: IterationRecord) -> None:
        """Append the record of a committed iteration where a master was killed before it could."""
        if not await asyncio.to_thread(self._history.holds, record):
            await self.write(record)

    def untold(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """Return which of these records the diary does not hold: a master was killed before it wrote them. Blocks."""
        return self._history.missing(records)

    def _write(self, record: Record) -> None:
        self._history.append(record)
        if self._trackers is not None:
            self._trackers.record(record)
        if self._observe is not None:
            self._observe(record)


@contextmanager
def open_journal(
    state: Path, observe: Callable[[Record], None] | None = None, trackers: Trackers | None = None
) -> Iterator[Journal]:
    """Write into the folder `state` while the context is open; `observe`: see Journal. Closes the trackers too."""
    history = History(state / "metrics.jsonl")
    try:
        yield Journal(history, trackers, observe)
    finally:
        history.close()
        if trackers is not None:
            trackers.close()
