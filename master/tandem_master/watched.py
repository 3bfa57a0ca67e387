"""A part of the registry as a local map that follows it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from tandem_checkpoint.registry.errors import RegistryError
from tandem_checkpoint.registry.store import Registry

T = TypeVar("T")


class WatchedKeys:
    """All keys under some prefixes with their values, kept up to date by tasks of `watched`."""

    def __init__(self, registry: Registry, prefixes: Sequence[str]) -> None:
        self._registry = registry
        self._prefixes = tuple(prefixes)
        self._values: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._followers: list[asyncio.Task[None]] = []

    @property
    def values(self) -> Mapping[str, str]:
        return self._values

    async def until(self, accept: Callable[[Mapping[str, str]], T | None]) -> T:
        """Return what `accept` makes of the values, as soon as that is not None. The caller sets the deadline."""
        while True:
            changed = self._changed
            answer = accept(self._values)
            if answer is not None:
                return answer
            self._check_followers()
            await changed.wait()

    async def follow(self, prefix: str) -> None:
        """Take over every change under `prefix`; ends only by an error or by being cancelled."""
        async for changes in self._registry.watch(prefix):
            for change in changes:
                if change.value is None:
                    self._values.pop(change.key, None)
                else:
                    self._values[change.key] = change.value
            self._announce()

    def start(self) -> None:
        """Start following; only `watched` calls it."""
        for prefix in self._prefixes:
            task = asyncio.create_task(self.follow(prefix), name=f"watch {prefix}")
            task.add_done_callback(lambda _: self._announce())
            self._followers.append(task)

    async def stop(self) -> None:
        """Stop following; only `watched` calls it."""
        for task in self._followers:
            task.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _check_followers(self) -> None:
        for task in self._followers:
            if task.done():
                task.result()
                raise RegistryError(f"{task.get_name()} ended")


@asynccontextmanager
async def watched(registry: Registry, prefixes: Sequence[str]) -> AsyncIterator[WatchedKeys]:
    """Follow `prefixes` while the context is open."""
    keys = WatchedKeys(registry, prefixes)
    keys.start()
    try:
        yield keys
    finally:
        await keys.stop()
