"""The GPU token: whoever holds it may hold device memory (invariant 1).

It is an flock on a file in the pod's shared volume. The lock belongs to the open file, and the children that may hold
device memory inherit that open file: when a shim is killed, the kernel frees the token only after the last of them is
gone, never while one still holds memory.

The lock says who may hold memory; the driver says who does. So whoever waits for the token looks at the devices, too,
and goes on only once no more is in use than the contexts of processes that have offloaded, and what sleeping servers
keep (captured graphs, communicators). How much that is, is written into the file.
"""

import asyncio
import fcntl
import os
from pathlib import Path

from tandem_checkpoint.devices import Devices, DeviceUse, NoDevices

POLL_SECONDS = 0.002
"""flock has no asynchronous wait; this is what a hand-over costs at most."""
FREE_POLL_SECONDS = 0.05
FREE_SECONDS = 10.0
"""A driver takes back the memory of a killed process within this time."""
CONTEXT_BYTES = 4 << 30
"""What a process that has offloaded may still hold on a device: CUDA's context, loaded kernels, what libraries keep
beside it. On an H100 a rank of Megatron's held 1.15 GiB before it had trained and 2.8 GiB from then on, with 0.3 M
parameters as with 417 M (docs/gpu.md)."""


class TokenTimeout(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The other container did not give the devices back in time."""


class DevicesHeld(TokenTimeout):
    """The token was free, but the devices are not; the message says who holds them."""


class GpuToken:
    """One shim's handle on the pod's token. `devices`: what it is the token of."""

    def __init__(self, path: Path, devices: Devices | None = None) -> None:
        self._path = path
        self._devices = devices or NoDevices()
        self._held = False
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def descriptor(self) -> int:
        """The descriptor that children inherit."""
        return self._descriptor

    async def acquire(self, deadline_seconds: float) -> None:
        """Take the token and wait for the devices; nothing where it is ours already.

        Raises: TokenTimeout when the other side keeps the token longer than `deadline_seconds`. DevicesHeld when the
        devices are not free within FREE_SECONDS after that; the token is given back then.
        """
        if self._held:
            return
        try:
            async with asyncio.timeout(deadline_seconds):
                while not self._try():  # noqa: ASYNC110 - the kernel tells nobody when a lock is freed
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise TokenTimeout(
                f"{self._path}: the other container of the pod still holds the devices after {deadline_seconds:.0f} s; "
                "see its log"
            ) from None
        try:
            await self._until_free()
        except BaseException:  # a cancelled take too gives the token back; it is raised again
            self.release()
            raise

    def try_acquire(self) -> bool:
        """Take the token where it is free, or ours already, whatever is on the devices; tell whether it is ours now."""
        return self._try()

    def release(self, kept_bytes: int | None = None) -> None:
        """Give the token back; harmless when it is not held.

        Args: kept_bytes: what sleeping servers keep in use on each device; None: what was said last holds still.
        """
        if kept_bytes is not None:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(kept_bytes).encode(), 0)
        self._held = False
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._descriptor)

    async def _until_free(self) -> None:
        """Wait until no device has more in use than contexts and what sleepers keep. Raises: DevicesHeld."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FREE_SECONDS
        kept = int(os.pread(self._descriptor, 32, 0) or 0)
        while full := [use for use in await asyncio.to_thread(self._devices.uses) if _is_full(use, kept)]:
            if loop.time() > deadline:
                raise DevicesHeld(
                    f"the token is free, but {full[0]} after {FREE_SECONDS:.0f} s; end what is not of this pod, or see "
                    "the trainer's log for what it could not offload"
                )
            await asyncio.sleep(FREE_POLL_SECONDS)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._held = True
        return True


def _is_full(use: DeviceUse, kept_bytes: int) -> bool:
    """Tell whether a device holds more than contexts: as many as the driver names processes, but at least one.

    Beside what sleepers keep, which includes the contexts of their time, one more context may come.
    """
    sleepers_bytes = kept_bytes + CONTEXT_BYTES if kept_bytes else 0
    return use.used_bytes > max(CONTEXT_BYTES * max(1, len(use.by_process)), sleepers_bytes)
