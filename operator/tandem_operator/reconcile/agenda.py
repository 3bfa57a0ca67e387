"""Which jobs are to be looked at, and when: each at most once in the queue, and by one worker at a time."""

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Agenda(Generic[Key]):
    """Keys that want to be worked on. A key that is woken while it is worked on comes again afterwards."""

    def __init__(self) -> None:
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._busy: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """Return the number of keys that wait for a worker."""
        return len(self._waiting)

    def wake(self, key: Key) -> None:
        """Ask for the key to be worked on as soon as a worker is free."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def wake_after(self, key: Key, seconds: float) -> None:
        """Ask for the key to be worked on later; a new time replaces the one before."""
        self.forget_timer(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._expire, key)

    def forget_timer(self, key: Key) -> None:
        """Take back what wake_after asked for."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def take(self) -> Key:
        """Return the next key and hold it until `done`."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._busy.add(key)
        return key

    def done(self, key: Key) -> None:
        """Let go of a key that was taken."""
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.wake(key)

    def close(self) -> None:
        """Take back every timer."""
        for key in list(self._timers):
            self.forget_timer(key)

    def _expire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.wake(key)
