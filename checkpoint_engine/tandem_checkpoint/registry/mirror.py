"""A live copy of one job's keys, and waits for what it should come to hold."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from tandem_checkpoint.registry.errors import RegistryUnreachable
from tandem_checkpoint.registry.store import Registry

T = TypeVar("T")


class Mirror:
    """The keys under one prefix as last seen. Reads are free; waits wake at each change."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._changed = asyncio.Condition()

    @property
    def values(self) -> Mapping[str, str]:
        return self._values

    def under(self, prefix: str) -> dict[str, str]:
        """Return the keys that start with `prefix`, with their values."""
        return {key: value for key, value in self._values.items() if key.startswith(prefix)}

    async def wait(self, find: Callable[["Mirror"], T | None]) -> T:
        """Return the first value of `find` that is not None; the caller sets the deadline."""
        async with self._changed:
            while (found := find(self)) is None:
                await self._changed.wait()
            return found

    async def follow(self, registry: Registry, prefix: str) -> None:
        """Keep the copy up to date until cancelled."""
        async for changes in registry.watch(prefix):
            async with self._changed:
                for change in changes:
                    if change.value is None:
                        self._values.pop(change.key, None)
                    else:
                        self._values[change.key] = change.value
                self._changed.notify_all()
        raise RegistryUnreachable(f"etcd closed the watch of {prefix}")


@asynccontextmanager
async def mirrored(registry: Registry, prefix: str) -> AsyncIterator[Mirror]:
    """Follow a prefix while the context is open."""
    mirror = Mirror()
    task = asyncio.create_task(mirror.follow(registry, prefix), name=f"mirror of {prefix}")
    try:
        yield mirror
    finally:
        task.cancel()
        await asyncio.wait({task})  # and not on itself: that would swallow a cancellation of ours
