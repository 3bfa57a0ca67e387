"""The trainer ranks of one pod, spoken to as one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from tandem_checkpoint.process.channel import ChannelClosed
from tandem_checkpoint.process.child import Child, ChildGone
from tandem_checkpoint.process.commands import RANK_ANSWER, RankAnswer, RankCommand, Ready, Refused

Answer = TypeVar("Answer")


class CommandRefused(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A rank did not carry out a command; the message is its reason."""


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Where one rank stands among all ranks of the job."""

    rank: int
    world_size: int
    local_rank: int
    rendezvous_address: str
    rendezvous_port: int

    def environment(self) -> dict[str, str]:
        """Return the variables that torch.distributed knows."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.rendezvous_address,
            "MASTER_PORT": str(self.rendezvous_port),
        }


class RankGroup:
    """The ranks of this pod, in order."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = tuple(children)
        self.device_bytes = 0

    @classmethod
    async def start(
        cls, argv: Sequence[str], environment: Mapping[str, str], places: Sequence[RankPlace], inherit: Sequence[int]
    ) -> Self:
        """Start all ranks; they are ready once `ready` returns."""
        return cls(
            [
                await Child.start(f"trainer rank {place.rank}", argv, {**environment, **place.environment()}, inherit)
                for place in places
            ]
        )

    async def ready(self) -> None:
        """Wait until every rank has built its model."""
        answers = await asyncio.gather(*(self._receive(child) for child in self._children))
        self.device_bytes = sum(answer.device_bytes for answer in answers if isinstance(answer, Ready))

    async def ask(self, command: Callable[[int], RankCommand], wanted: type[Answer]) -> list[Answer]:
        """Send each rank its command and return the answers by local rank.

        Raises: CommandRefused where a rank refuses. ChildGone where one ends.
        """
        for index, child in enumerate(self._children):
            await self._send(child, command(index))
        answers = await asyncio.gather(*(self._receive(child) for child in self._children))
        for answer in answers:
            if isinstance(answer, Refused):
                raise CommandRefused(answer.reason)
        return [answer for answer in answers if isinstance(answer, wanted)]

    async def ask_first(self, command: RankCommand, wanted: type[Answer]) -> Answer:
        """Send a command to local rank 0 alone."""
        await self._send(self._children[0], command)
        answer = await self._receive(self._children[0])
        if isinstance(answer, Refused):
            raise CommandRefused(answer.reason)
        assert isinstance(answer, wanted)
        return answer

    async def first_end(self) -> str:
        """Return how the first rank to end has ended."""
        tasks = [asyncio.create_task(child.wait(), name=child.name) for child in self._children]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in tasks:
                task.cancel()

    async def kill(self) -> None:
        await asyncio.gather(*(child.kill() for child in self._children))

    async def _send(self, child: Child, command: RankCommand) -> None:
        try:
            await child.channel.send(command.model_dump_json())
        except ChannelClosed:
            raise ChildGone(await child.wait()) from None

    async def _receive(self, child: Child) -> RankAnswer:
        try:
            return RANK_ANSWER.validate_json(await child.channel.receive())
        except ChannelClosed:
            raise ChildGone(await child.wait()) from None
