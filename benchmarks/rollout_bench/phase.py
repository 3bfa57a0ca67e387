"""One Infer phase in virtual time: the master's own requests, queue, seats and stop rule, on simulated servers."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.rollout_bench.pace import Pace
from benchmarks.rollout_bench.server import BLOCK_TOKENS, Running, SimulatedServer

from tandem_master.rollout.dispatch import Errand, Queue
from tandem_master.rollout.ending import StopRule
from tandem_master.rollout.pool import Seats, ServerPool
from tandem_master.rollout.segments import Ask

WAIT_FOR_ALL = StopRule()


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a phase sampled of one trajectory."""

    num_blocks: int
    is_whole: bool
    """Whether the response has ended."""


@dataclass(frozen=True, slots=True)
class PhaseOutcome:
    """What one Infer phase did."""

    seconds: float
    sampled: Mapping[str, Sampled]
    """By trajectory."""
    tail_idle_share: float
    """Time for which seats were idle after they had been taken, over all seats times the phase's duration. A server has
    as many seats as it ran sequences at once."""
    prefix_tokens: int
    """Read again, or for the first time, before sampling."""


@dataclass(slots=True)
class Phase:
    """The servers of one phase, and what they have been asked.

    `left_blocks`: what each trajectory lacks to its end, by id; the servers know, the master does not.
    """

    num_servers: int
    num_seats: int
    """Of one server."""
    pace: Pace
    left_blocks: Mapping[str, int]
    rule: StopRule = WAIT_FOR_ALL
    num_complete: int = 0
    """Trajectories of this iteration that are complete before the phase begins."""
    _servers: dict[str, SimulatedServer] = field(default_factory=dict)
    _seats: dict[str, Seats] = field(default_factory=dict)
    """Of the request that each trajectory is in."""
    _events: list[tuple[float, int, str]] = field(default_factory=list)
    """When a server has its next end, and how many events there had been when that was found out."""
    _newest: dict[str, int] = field(default_factory=dict)
    _sampled: dict[str, Sampled] = field(default_factory=dict)
    _prefix_blocks: int = 0

    def run(self, asks: Sequence[Ask]) -> PhaseOutcome:
        """Have all requests answered, or as much as the stop rule leaves time for."""
        names = [f"http://server-{number}" for number in range(self.num_servers)]
        self._servers = {name: SimulatedServer(self.pace) for name in names}
        pool = ServerPool(dict.fromkeys(names, "1"), max_outstanding=self.num_seats)
        queue = Queue()
        for ask in asks:
            queue.push(Errand(ask))
        num_wanted = self.num_complete + sum(len(ask.trajectories) for ask in asks)
        now = 0.0
        self._send(queue, pool, now)
        for now, ended in self._ends():
            self._take_in(ended, pool)
            self._send(queue, pool, now)
            if self.rule.is_enough(self.num_complete, num_wanted):
                self._cut(now)
        return self._outcome(now)

    def _send(self, queue: Queue, pool: ServerPool, now: float) -> None:
        """Send from the head of the queue while there are seats, as the master's dispatcher does."""
        touched = set()
        while queue:
            ask = queue.first().ask
            seats = pool.take(ask)
            if seats is None:
                break
            queue.pop()
            self._begin(ask, seats, now)
            touched.add(seats.station.server)
        for name in sorted(touched):
            self._expect(name)

    def _begin(self, ask: Ask, seats: Seats, now: float) -> None:
        prefix = len(ask.token_ids)
        self._prefix_blocks += prefix
        self._seats |= dict.fromkeys((item.id for item in ask.trajectories), seats)
        sequences = [
            Running(item.id, prefix, min(self.left_blocks[item.id], ask.max_tokens)) for item in ask.trajectories
        ]
        self._servers[seats.station.server].admit(sequences, prefix, now)

    def _expect(self, name: str) -> None:
        """Note when a server has its next end; what was noted of it before is void."""
        self._newest[name] = self._newest.get(name, 0) + 1
        end = self._servers[name].next_end()
        if end is not None:
            heapq.heappush(self._events, (end, self._newest[name], name))

    def _ends(self) -> Iterator[tuple[float, list[Running]]]:
        """Yield when sequences end, and which, in the order of time."""
        while self._events:
            now, number, name = heapq.heappop(self._events)
            if self._newest[name] == number:
                ended = self._servers[name].end_first()
                self._expect(name)
                yield now, ended

    def _take_in(self, ended: Sequence[Running], pool: ServerPool) -> None:
        """Count what has ended, and give its seats back."""
        for item in ended:
            is_whole = item.done_blocks == self.left_blocks[item.name]
            self._sampled[item.name] = Sampled(item.done_blocks, is_whole)
            self.num_complete += is_whole
            pool.give_back(self._seats[item.name], 1)

    def _cut(self, now: float) -> None:
        for server in self._servers.values():
            for item in server.cut(now):
                self._sampled[item.name] = Sampled(item.done_blocks, is_whole=False)
        self._events.clear()

    def _outcome(self, seconds: float) -> PhaseOutcome:
        num_seats = sum(server.peak for server in self._servers.values())
        idle_seconds = sum(
            server.idle_seconds + server.peak * (seconds - server.clock) for server in self._servers.values()
        )
        idle_share = idle_seconds / (num_seats * seconds) if seconds else 0.0
        return PhaseOutcome(seconds, self._sampled, idle_share, self._prefix_blocks * BLOCK_TOKENS)
