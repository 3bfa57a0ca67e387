"""The GPU token: whoever holds it may hold device memory (invariant 1).

It is an flock on a file in the pod's shared volume. The lock belongs to the open file, and the children that may hold
device memory inherit that open file: when a shim is killed, the kernel frees the token only after the last of them is
gone, never while one still holds memory.
"""

import asyncio
import fcntl
import os
from pathlib import Path

POLL_SECONDS = 0.002
"""flock has no asynchronous wait; this is what a hand-over costs at most."""


class TokenTimeout(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The other container did not give the devices back in time."""


class GpuToken:
    """One shim's handle on the pod's token."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def descriptor(self) -> int:
        """The descriptor that children inherit."""
        return self._descriptor

    async def acquire(self, deadline_seconds: float) -> None:
        """Take the token; raise TokenTimeout when the other side keeps it longer than `deadline_seconds`."""
        try:
            async with asyncio.timeout(deadline_seconds):
                while not self._try():  # noqa: ASYNC110 - the kernel tells nobody when a lock is freed
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise TokenTimeout(
                f"{self._path}: the other container of the pod still holds the devices after {deadline_seconds:.0f} s; "
                "see its log"
            ) from None

    def release(self) -> None:
        """Give the token back; harmless when it is not held."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._descriptor)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
