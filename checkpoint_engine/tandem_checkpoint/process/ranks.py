"""The trainer ranks of one pod, spoken to as one.

A rank answers every command once, in order. An answer that nobody waits for any more (its question was cancelled by a
deadline) is owed still: it is taken off the channel before the next command goes out.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Self, TypeVar

from tandem_checkpoint.process.channel import ChannelClosed
from tandem_checkpoint.process.child import Child, ChildGone
from tandem_checkpoint.process.commands import (
    RANK_ANSWER,
    Build,
    Meet,
    Met,
    RankAnswer,
    RankCommand,
    RankPlace,
    Ready,
    Refused,
    WeightSource,
)
from tandem_checkpoint.process.group import freeze_group
from tandem_checkpoint.process.leftovers import Segment, Sweeper

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Item = TypeVar("Item")

LATE_SECONDS = 30.0
"""How long a new command waits for a rank that is still busy with an older one."""


class CommandRefused(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A rank did not carry out a command; the message is its reason."""


class RankGroup:
    """The ranks of this pod, in order."""

    def __init__(self, children: Sequence[Child], sweeper: Sweeper) -> None:
        self._ranks = tuple(_Rank(child) for child in children)
        self._turn = asyncio.Lock()
        self._sweeper = sweeper
        self._segments: frozenset[Segment] = frozenset()
        self.device_bytes = 0

    @classmethod
    async def start(
        cls, argv: Sequence[str], environment: Mapping[str, str], num_ranks: int, inherit: Sequence[int]
    ) -> Self:
        """Start all ranks: they import everything and hold no device memory until they are told to build."""
        sweeper, children = Sweeper(), []
        try:
            for local in range(num_ranks):
                children.append(await Child.start(f"trainer rank {local}", argv, environment, inherit))
        except BaseException:  # a cancelled start too leaves no process; it is raised again
            await asyncio.gather(*(child.kill() for child in children))
            raise
        return cls(children, sweeper)

    @property
    def in_doubt(self) -> bool:
        """Tell whether a rank may have carried out a command whose answer nobody has seen."""
        return any(rank.num_owed > 0 for rank in self._ranks)

    @property
    def any_ended(self) -> bool:
        """Tell whether a rank has ended."""
        return not all(rank.child.running for rank in self._ranks)

    async def meet(self, places: Sequence[RankPlace]) -> None:
        """Have every rank find all others of the job; no device memory is held. Raises: ChildGone where one ends."""
        for rank, place in zip(self._ranks, places, strict=True):
            rank.child.name = f"trainer rank {place.rank}"
        await self.ask(lambda index: Meet(place=places[index]), Met)

    async def build(self, places: Sequence[RankPlace], source: WeightSource, optimizer: str = "") -> None:
        """Have every rank build its model, each by itself; the devices are held from here on.

        Raises: CommandRefused where the source cannot be read; the group is of no use then. ChildGone where one ends.
        """
        for rank, place in zip(self._ranks, places, strict=True):
            rank.child.name = f"trainer rank {place.rank}"
        ready = await self.ask(lambda index: Build(place=places[index], source=source, optimizer=optimizer), Ready)
        self.device_bytes = sum(answer.device_bytes for answer in ready)
        await self._note_segments()

    async def ask(self, command: Callable[[int], RankCommand], wanted: type[Answer]) -> list[Answer]:
        """Send each rank its command and return the answers by local rank.

        Raises: CommandRefused where a rank refuses. ChildGone where one ends. TimeoutError where one is still busy with
        an older command.
        """
        async with self._turn:
            return await self._ask(self._ranks, command, wanted)

    async def ask_first(self, command: RankCommand, wanted: type[Answer]) -> Answer:
        """Send a command to local rank 0 alone; errors as for `ask`."""
        async with self._turn:
            return (await self._ask(self._ranks[:1], lambda _: command, wanted))[0]

    async def first_end(self) -> str:
        """Return how the first rank to end has ended."""
        tasks = [asyncio.create_task(rank.child.wait(), name=rank.child.name) for rank in self._ranks]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in tasks:
                task.cancel()

    async def kill(self) -> None:
        """End every rank, and remove the shared memory that they leave."""
        try:
            for rank in self._ranks:
                if rank.child.running:
                    freeze_group(rank.child.pid)
            await self._note_segments()
        finally:
            await asyncio.gather(*(rank.child.kill() for rank in self._ranks))
        self._sweeper.sweep_later(self._segments)
        await self._sweeper.finish()

    async def _note_segments(self) -> None:
        """Note the shared memory that the ranks use now: once they have ended, nobody can tell."""
        for rank in self._ranks:
            found = await asyncio.to_thread(self._sweeper.used_by, rank.child.pid)
            self._segments |= found

    async def _ask(
        self, ranks: Sequence["_Rank"], command: Callable[[int], RankCommand], wanted: type[Answer]
    ) -> list[Answer]:
        await _all(rank.settle(LATE_SECONDS) for rank in ranks)
        for index, rank in enumerate(ranks):
            await rank.send(command(index))
        answers = await _all(rank.receive() for rank in ranks)
        for answer in answers:
            if isinstance(answer, Refused):
                raise CommandRefused(answer.reason)
        if not all(isinstance(answer, wanted) for answer in answers):
            raise AssertionError(f"wanted {wanted.__name__}, got {[answer.kind for answer in answers]}")
        return [answer for answer in answers if isinstance(answer, wanted)]


class _Rank:
    """One rank, and how many answers it owes."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.num_owed = 0

    async def send(self, command: RankCommand) -> None:
        self.num_owed += 1  # before anything can be cancelled: the line may be on its way already
        try:
            await self.child.channel.send(command.model_dump_json())
        except ChannelClosed:
            raise ChildGone(await self.child.wait()) from None

    async def receive(self) -> RankAnswer:
        try:
            line = await self.child.channel.receive()
        except ChannelClosed:
            raise ChildGone(await self.child.wait()) from None
        self.num_owed -= 1
        return RANK_ANSWER.validate_json(line)

    async def settle(self, deadline_seconds: float) -> None:
        """Take the answers of older commands off the channel; raise TimeoutError where they do not come."""
        try:
            async with asyncio.timeout(deadline_seconds):
                while self.num_owed > 0:
                    answer = await self.receive()
                    logger.info("%s: dropped its late answer %r", self.child.name, answer.kind)
        except TimeoutError:
            raise TimeoutError(
                f"{self.child.name} is still busy with an older command after {deadline_seconds:.0f} s"
            ) from None


async def _all(work: Iterable[Coroutine[None, None, Item]]) -> list[Item]:
    """Return all results in order; at the first error cancel the rest and raise it."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        unfinished = [task for task in tasks if task.cancel()]
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if task not in unfinished:
            task.result()
    return [task.result() for task in tasks]
