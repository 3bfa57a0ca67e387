"""Where the records of a run go: the diary, and TensorBoard beside it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem_api.history import IterationRecord, SwitchRecord
from tandem_master.history import AnyRecord, History
from tandem_master.tensorboard import EventFiles


class Journal:
    """Writes records, off the event loop."""

    def __init__(
        self, history: History, events: EventFiles, observe: Callable[[AnyRecord], None] | None = None
    ) -> None:
        """`observe`: gets every record after it was written, from any thread."""
        self._history = history
        self._events = events
        self._observe = observe

    async def write(self, record: AnyRecord) -> None:
        """Append `record` to the diary, and its scalars to TensorBoard."""
        await asyncio.to_thread(self._write, record)

    async def complete(self, record: IterationRecord) -> None:
        """Append the record of a committed iteration where a master was killed before it could."""
        if not await asyncio.to_thread(self._history.holds, record):
            await self.write(record)

    def _write(self, record: AnyRecord) -> None:
        self._history.append(record)
        if isinstance(record, IterationRecord):
            self._events.iteration(record)
        elif isinstance(record, SwitchRecord):
            self._events.switch(record)
        if self._observe is not None:
            self._observe(record)


@contextmanager
def open_journal(state: Path, observe: Callable[[AnyRecord], None] | None = None) -> Iterator[Journal]:
    """Write into the folder `state` while the context is open; `observe`: see Journal."""
    history = History(state / "metrics.jsonl")
    events = EventFiles(state / "tensorboard")
    try:
        yield Journal(history, events, observe)
    finally:
        history.close()
        events.close()
