"""One transaction for what many tasks write at once: a disk that is slow makes the groups larger, not the queue."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class GroupCommit(Generic[T]):
    """Hands what comes while `write` runs to its next call, all together. `write` blocks; it runs in a thread."""

    def __init__(self, write: Callable[[Sequence[T]], None]) -> None:
        self._write = write
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def written(self, item: T) -> None:
        """Return once `item` is written, with all that share its group or none. Errors: those of `write`.

        Who is cancelled does not know whether it was.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_waiting(), name="group commit")
        await done

    async def _write_waiting(self) -> None:
        while self._waiting:
            group = [(item, done) for item, done in self._waiting if not done.done()]
            self._waiting = []
            try:
                await asyncio.to_thread(self._write, [item for item, _ in group])
            except BaseException as error:  # each of them is told, and a cancelled group too
                _settle(group, error)
                if isinstance(error, asyncio.CancelledError):
                    _settle(self._waiting, error)
                    raise
            else:
                _settle(group, None)


def _settle(group: Sequence[tuple[T, "asyncio.Future[None]"]], error: BaseException | None) -> None:
    for _, done in group:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            done.cancel()
        else:
            done.set_exception(error)
