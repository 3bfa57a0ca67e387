"""What becomes of a pod's servers between two Infer phases: the seam between a rollout side and its strategy."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from tandem_checkpoint.process.commands import Fingerprinted
from tandem_checkpoint.process.zygote import Server
from tandem_checkpoint.stopwatch import Stopwatch

Weights = Callable[[], Awaitable[Path]]
"""Returns the manifest of a generation once it may be bound: all of it is in this pod, and every checksum is right."""


class Forker(Protocol):
    """What servers are forked from: a zygote, or a keeper of one."""

    async def fork(self, arguments: Sequence[str]) -> Server:
        """Fork a server that parses `arguments` and then waits for its word to go. Errors: ChildGone."""
        ...

    async def wait(self) -> str:
        """Return how it ended, once no server can be forked any more."""
        ...

    async def kill(self) -> None:
        """End it, and with it all its servers."""
        ...


class Strategy(Protocol):
    """The servers of one pod. Errors of all methods: ChildGone where one ends, CommandRefused where one refuses."""

    @property
    def uses_token(self) -> bool:
        """Whether servers hold devices only while the pod's token is theirs."""
        ...

    async def prepare(self) -> None:
        """Have servers that wait for their weights; takes no device memory."""
        ...

    async def serve(self, weights: Weights, stopwatch: Stopwatch) -> None:
        """Start or wake the engines beside the check of the weights, then bind these and answer.

        Stages: start, load, ready.
        """
        ...

    async def examine(self) -> Sequence[Fingerprinted]:
        """Return what each server holds that has bound weights."""
        ...

    async def abort(self) -> None:
        """End all generation; clients get what there is so far."""
        ...

    async def release(self) -> int:
        """Give the devices up; return the bytes of device memory that are held still."""
        ...

    async def revive(self) -> None:
        """Put others in the place of servers that have ended, with the weights that were bound last."""
        ...

    async def first_end(self) -> str:
        """Return how a server has ended by itself, once one has, or the zygote for good."""
        ...

    async def close(self) -> None:
        """End every process."""
        ...
