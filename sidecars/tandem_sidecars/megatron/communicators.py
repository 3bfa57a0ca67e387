"""NCCL's communicators: their buffers leave the device with the model and come back with it.

ncclCommSuspend (NCCL 2.29.7, which the GPU extra pins) frees a communicator's device memory and keeps its connections.
It is collective. torch has no call for it, so NCCL's own function is called with the handle that torch gives out. Not
yet run on a GPU: see docs/gpu.md.
"""

import ctypes
from collections.abc import Iterator

import torch
import torch.distributed as dist

LIBRARY = "libnccl.so.2"
"""By the name under which torch has loaded it already."""
SUSPEND_MEMORY = 1
"""NCCL_SUSPEND_MEM."""


class CommunicatorError(Exception):
    """NCCL has refused; the message has its own words."""


class NcclCommunicators:
    """All communicators of this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._suspended: tuple[int, ...] = ()

    def suspend(self) -> None:
        """Free their device memory; nothing where that was done already."""
        if not self._suspended:
            handles = tuple(self._handles())
            self._call("ncclCommSuspend", handles, ctypes.c_int(SUSPEND_MEMORY))
            self._suspended = handles

    def resume(self) -> None:
        """Take their device memory back; nothing where they are not suspended."""
        handles, self._suspended = self._suspended, ()
        self._call("ncclCommResume", handles)

    def _call(self, name: str, handles: tuple[int, ...], *arguments: ctypes.c_int) -> None:
        """Call one of NCCL's functions for each communicator, in the order of their making: every rank has the same."""
        if not handles:
            return
        library = ctypes.CDLL(LIBRARY)
        for handle in handles:
            code = library[name](ctypes.c_void_p(handle), *arguments)
            if code != 0:
                library.ncclGetErrorString.restype = ctypes.c_char_p
                raise CommunicatorError(f"{name}: {library.ncclGetErrorString(code).decode()}")

    def _handles(self) -> Iterator[int]:
        """Yield the handle of each communicator that has been used; a group without one has no memory yet."""
        for group in dist.distributed_c10d._world.pg_map:
            if dist.get_backend(group) != "nccl":
                continue
            backend = group._get_backend(self._device)
            handle = int(backend._comm_ptr())  # type: ignore[attr-defined]
            if handle:
                yield handle
