"""Running several waits at once, with one error instead of a group of them."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]], *, name: str) -> list[T]:
    """Run all of `work` at once and return the results in order; the first error cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item, name=f"{name} {index}") for index, item in enumerate(work)]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return [task.result() for task in tasks]


async def side_by_side(work: Sequence[Awaitable[T]]) -> list[T]:
    """Do as asyncio.gather; one piece of work alone gets no task, which would cost more than most of them."""
    return [await work[0]] if len(work) == 1 else await asyncio.gather(*work)


async def alongside(work: Coroutine[Any, Any, T], *companions: Coroutine[Any, Any, None]) -> T:
    """Return what `work` returns; the companions run as long as it does, and an error of one ends it.

    A companion that cancels `work` wins over what `work` raises while it unwinds.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(companion, name=f"companion {i}") for i, companion in enumerate(companions)]
            try:
                return await work
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group that is no group itself."""
    first = errors.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first
