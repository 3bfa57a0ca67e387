"""NCCL's communicators: their buffers leave the device with the model and come back with it.

NCCL (2.29.7, which the GPU extra pins) frees a communicator's device memory and keeps its connections. Both ways are
collective; torch's backends have the calls. Run with one rank only: see docs/gpu.md.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, cast

import torch
import torch.distributed as dist

logger = logging.getLogger(__name__)


class Communicator(Protocol):
    """One communicator: in torch, a group's backend."""

    def suspend(self) -> None:
        """Free its device memory."""
        ...

    def resume(self) -> None:
        """Take its device memory back."""
        ...


class Communicators:
    """All communicators of this process."""

    def __init__(self, used: Callable[[], Iterable[Communicator]]) -> None:
        self._used = used
        self._suspended: list[Communicator] = []

    def suspend(self) -> None:
        """Free their device memory; nothing where that was done already.

        Where NCCL refuses, they keep it: the device is not as free as it could be, but training goes on all the same.
        """
        if self._suspended:
            return
        for communicator in self._used():
            try:
                communicator.suspend()
            except RuntimeError as error:
                logger.warning("a communicator keeps its device memory: %s", str(error).partition("\n")[0])
                return
            self._suspended.append(communicator)

    def resume(self) -> None:
        """Take their device memory back; nothing where they are not suspended."""
        while self._suspended:
            self._suspended.pop(0).resume()


def nccl_communicators(device: torch.device) -> Iterator[Communicator]:
    """Yield those on a device, in the order of their making, which is one for all ranks that are in any two of them.

    One never used has no memory.
    """
    for group in dist.distributed_c10d._world.pg_map:
        if dist.get_backend(group) != "nccl":
            continue
        backend = group._get_backend(device)
        if backend._comm_ptr():  # type: ignore[attr-defined]
            yield cast("Communicator", backend)
