"""What a running job says, folded into one state: its registry keys and its growing history."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from tandem_api.history import RECORD, Record
from tandem_api.registry import Keys
from tandem_checkpoint.registry.errors import RegistryError
from tandem_checkpoint.registry.store import Registry
from tandem_cli.live.state import LiveState, with_key, with_records

TAIL_SECONDS = 0.2
OnChange = Callable[[LiveState, LiveState], None]


class Feed:
    """The current state of a job; every change is told to `on_change` with the state before and after."""

    def __init__(self, state: LiveState, on_change: OnChange) -> None:
        self.state = state
        self._on_change = on_change

    async def follow_registry(self, registry: Registry, keys: Keys) -> None:
        """Fold registry changes in until cancelled, or until the registry goes away."""
        try:
            async for changes in registry.watch(keys.prefix):
                state = self.state
                for change in changes:
                    value = None if change.value is None else change.value.encode()
                    state = with_key(state, keys, change.key, value)
                self._become(state)
        except RegistryError:
            return

    async def follow_history(self, tail: "HistoryTail") -> None:
        """Fold new history records in until cancelled."""
        while True:
            self.take(tail.new_records())
            await asyncio.sleep(TAIL_SECONDS)

    def take(self, records: list[Record]) -> None:
        if records:
            self._become(with_records(self.state, records))

    def _become(self, state: LiveState) -> None:
        before, self.state = self.state, state
        self._on_change(before, state)


class HistoryTail:
    """Reads the records that a history file has gained since the last look.

    Only whole lines count as seen: what a killed master left torn is cut off by the next one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._new_lines()

    def new_records(self) -> list[Record]:
        """Return the new complete records."""
        return [RECORD.validate_json(line) for line in self._new_lines() if line.strip()]

    def _new_lines(self) -> list[bytes]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return whole.split(b"\n")
