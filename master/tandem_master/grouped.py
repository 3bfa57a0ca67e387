"""One call for what many tasks want at once: where the work is slow, the groups grow larger, not the queue."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

AT_ONCE = 4
"""Tasks that are told in one turn of the event loop: all of a large group would hold up everybody else."""

T = TypeVar("T")
R = TypeVar("R")


class Grouped(Generic[T, R]):
    """Hands what comes while `work` runs to its next call, all together. `work` blocks; it runs in a thread."""

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]], name: str) -> None:
        """`work` returns a result for each item, in their order. `name` is that of its task."""
        self._work = work
        self._name = name
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._working: asyncio.Task[None] | None = None

    async def done(self, item: T) -> R:
        """Return what comes of `item`; all that share its group succeed or none does. Errors: those of `work`.

        Who is cancelled does not know whether it was done.
        """
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work_off(), name=self._name)
        return await result

    async def _work_off(self) -> None:
        while self._waiting:
            group = [(item, result) for item, result in self._waiting if not result.done()]
            self._waiting = []
            try:
                found = await asyncio.to_thread(self._work, [item for item, _ in group])
            except BaseException as error:  # each of them is told, and a cancelled group too
                _fail(group, error)
                if isinstance(error, asyncio.CancelledError):
                    _fail(self._waiting, error)
                    raise
            else:
                for number, ((_, result), value) in enumerate(zip(group, found, strict=True)):
                    if not result.done():
                        result.set_result(value)
                    if number % AT_ONCE == AT_ONCE - 1:
                        await asyncio.sleep(0)


def _fail(group: Sequence[tuple[T, "asyncio.Future[R]"]], error: BaseException) -> None:
    for _, result in group:
        if result.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            result.cancel()
        else:
            result.set_exception(error)
