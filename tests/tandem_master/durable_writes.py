"""All durable writes of a master, one after the other: the points that a kill can fall between."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tandem_api.history import Record
from tandem_master import checkpoints
from tandem_master.database import Database
from tandem_master.history import History


class Killed(BaseException):
    """This master is dead: nothing of it gets written any more."""


@dataclass(slots=True)
class Witness:
    """Counts the durable writes of one master; what `before` raises, with the number of the coming one, ends them."""

    before: Callable[[int], None]
    num_writes: int = 0
    is_dead: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let one write happen while no other does."""
        with self._lock:
            if self.is_dead:
                raise Killed
            self.num_writes += 1
            try:
                self.before(self.num_writes)
            except Killed:
                self.is_dead = True
                raise
            yield


WITNESS: ContextVar[Witness | None] = ContextVar("witness", default=None)
"""That of the master which runs in this context, and in the threads that it asks."""


@contextmanager
def turn() -> Iterator[None]:
    witness = WITNESS.get()
    if witness is None:
        yield
        return
    with witness.turn():
        yield


@pytest.fixture
def witnessed_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have transactions, lines of the diary and changes of `latest` ask the witness of their context."""
    write_transaction, write_line, write_file = Database.writing, History.append, checkpoints.write_atomically

    @contextmanager
    def transaction(database: Database, **options: Any) -> Iterator[Any]:
        with turn(), write_transaction(database, **options) as connection:
            yield connection

    def line(history: History, record: Record) -> None:
        with turn():
            write_line(history, record)

    def file(path: Path, text: str) -> None:
        with turn():
            write_file(path, text)

    monkeypatch.setattr(Database, "writing", transaction)
    monkeypatch.setattr(History, "append", line)
    monkeypatch.setattr(checkpoints, "write_atomically", file)
