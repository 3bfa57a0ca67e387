"""Waiting for what comes by itself."""

import asyncio
from collections.abc import Callable


async def eventually(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Wait until a condition holds; AssertionError that says what did not come."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {seconds:g} s") from None
