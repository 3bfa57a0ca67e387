"""A SQLite file of the job's state."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem_master.errors import BufferStateError

BUSY_SECONDS = 5.0
"""Time that a reader of the file, such as the command line, may keep the master waiting."""
CHECKPOINT_PAGES = 250
"""Pages of 4 KiB in the log before they are moved into the file: what waits meanwhile comes to the event loop at once.
With 8,000 the longest waits of the master are three times as long; 1,000, the default, is a little worse than this."""


class Database:
    """One connection, shared by threads one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._connection

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction, which survives a kill of the process. `durable`: it and all before it reach the disk, not
        only the operating system.
        """
        with self._lock:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection


def open_database(path: Path, bring_up: Callable[[sqlite3.Connection], None], mistake: str, fix: str) -> Database:
    """Open the file `path`, making it where it is absent, and have `bring_up` make its tables.

    Errors: BufferStateError, with `mistake` and `fix` where the file is something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute("PRAGMA foreign_keys = ON")
        bring_up(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise BufferStateError(f"{path}: {mistake} ({error}); {fix}") from error
    except BufferStateError:
        connection.close()
        raise
    return Database(connection)
