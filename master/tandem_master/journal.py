"""Where the records of a run go: the diary, and TensorBoard beside it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem_api.history import IterationRecord, SwitchRecord
from tandem_master.history import AnyRecord, History
from tandem_master.tensorboard import EventFiles


class Journal:
    """Writes records, off the event loop."""

    def __init__(self, history: History, events: EventFiles) -> None:
        self._history = history
        self._events = events

    async def write(self, record: AnyRecord) -> None:
        """Append `record` to the diary, and its scalars to TensorBoard."""
        await asyncio.to_thread(self._write, record)

    def _write(self, record: AnyRecord) -> None:
        self._history.append(record)
        if isinstance(record, IterationRecord):
            self._events.iteration(record)
        elif isinstance(record, SwitchRecord):
            self._events.switch(record)


@contextmanager
def open_journal(state: Path) -> Iterator[Journal]:
    """Write into the folder `state` while the context is open."""
    history = History(state / "metrics.jsonl")
    events = EventFiles(state / "tensorboard")
    try:
        yield Journal(history, events)
    finally:
        history.close()
        events.close()
