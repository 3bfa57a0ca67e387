"""Servers of a phase in virtual time, which sample at their own pace, die, and come: what a dispatcher deals with."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import httpx

from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_master.rollout.ahead import Ahead
from tandem_master.rollout.capacity import Capacity
from tandem_master.rollout.dispatch import Dispatcher
from tandem_master.rollout.ending import Ending
from tandem_master.rollout.pool import ServerPool
from tandem_master.rollout.segments import Ask, Limits, Piece, extend, plan_asks
from tandem_master.rollout.server import CompletionApi
from tandem_master.tasks import alongside
from tests.tandem_master.engine_stub import Choice, event

EOS = 0
STREAM_TOKENS = 4
LEASE_SECONDS = 10.0
"""After which the master hears that a server is dead."""


@dataclass(frozen=True, slots=True)
class Life:
    """When a server comes and when it dies."""

    pace: float
    """Tokens of one sample in a second."""
    born: float = 0.0
    dies: float = 1e9
    ends_requests: bool = True


def truth(prompt: int, length: int) -> tuple[int, ...]:
    """Return the only response to a prompt."""
    return (*(1 + (prompt * 31 + place * 7) % 97 for place in range(length - 1)), EOS)


@dataclass(slots=True)
class World:
    """Prompts with the lengths of their responses, and servers by name."""

    lengths: Sequence[int]
    lives: dict[str, Life]
    capacity_tokens: int
    trajectories: dict[str, Trajectory] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    """Tokens that each server has sent."""
    held: Counter[str] = field(default_factory=Counter)
    """Tokens that each server's cache holds now."""
    most_held: Counter[str] = field(default_factory=Counter)
    told_to_end: dict[str, asyncio.Event] = field(default_factory=dict)
    pool: ServerPool | None = None

    def open(self, iteration: int, num_samples: int) -> None:
        """Draw every prompt once more."""
        for prompt in range(len(self.lengths)):
            group = f"{iteration}-{prompt}-0"
            for sample in range(num_samples):
                name = f"{iteration}-{prompt}-{sample}"
                self.trajectories[name] = Trajectory(
                    id=name, group=group, problem_id=str(prompt), prompt_token_ids=(prompt, prompt)
                )

    async def run_phase(self, iteration: int, budget_tokens: int, deadline: float | None) -> float:
        """Sample what is unfinished; return how long it took."""
        started = asyncio.get_running_loop().time()
        ending, limits = Ending(), Limits(budget_tokens, 1000)
        self.pool = ServerPool(self._alive(), self._capacities())
        async with httpx.AsyncClient(transport=httpx.MockTransport(self.handle)) as client:
            api = CompletionApi(client, temperature=1.0, heard=ending.heard)
            ahead = Ahead(api, self._asks(self.unfinished(), iteration, limits), ending)

            async def deliver(pieces: Sequence[Piece]) -> Sequence[Ask]:
                await asyncio.sleep(0.3)  # a reward function
                longer = [extend(item.trajectory, item.completion, iteration - 1, limits) for item in pieces]
                self.trajectories.update((item.id, item) for item in longer)
                aborted = [item for item, piece in zip(longer, pieces, strict=True) if _goes_on(item, piece)]
                return self._asks(aborted, iteration, limits)

            companions = [self._lead(self.pool)]
            if deadline is not None:
                companions.append(ending.strike_after(deadline))
            await alongside(Dispatcher(ahead, self.pool, deliver).run(), *companions)
        return asyncio.get_running_loop().time() - started

    def unfinished(self) -> list[Trajectory]:
        return [item for item in self.trajectories.values() if item.state is TrajectoryState.UNFINISHED]

    def expected(self, trajectory: Trajectory) -> tuple[int, ...]:
        prompt = trajectory.prompt_token_ids[0]
        return truth(prompt, self.lengths[prompt])

    async def handle(self, request: httpx.Request) -> httpx.Response:
        server = f"http://{request.url.host}"
        if self._is_dead(server):
            raise httpx.ConnectError("refused")
        body = json.loads(request.content)
        if request.url.path.endswith("abort_requests"):
            for name in body["request_ids"] if self.lives[server].ends_requests else ():
                self.told_to_end.setdefault(name.removeprefix("cmpl-").removesuffix("-0"), asyncio.Event()).set()
            return httpx.Response(200 if self.lives[server].ends_requests else 404)
        end = self.told_to_end.setdefault(request.headers["x-request-id"], asyncio.Event())
        answer = Answer(self, server, tuple(body["prompt"]), body["n"], body["max_tokens"], end)
        return httpx.Response(200, stream=answer)

    def _is_dead(self, server: str) -> bool:
        now, life = asyncio.get_running_loop().time(), self.lives[server]
        return not life.born <= now < life.dies

    def _alive(self) -> dict[str, str]:
        """Return who serves as the master knows it: a dead server's lease lasts a while."""
        now = asyncio.get_running_loop().time()
        return {name: "one" for name, life in self.lives.items() if life.born <= now < life.dies + LEASE_SECONDS}

    def _capacities(self) -> dict[str, Capacity | None]:
        return dict.fromkeys(self.lives, Capacity(self.capacity_tokens))

    async def _lead(self, pool: ServerPool) -> None:
        """Tell the pool who comes and goes."""
        while True:
            await asyncio.sleep(1.0)
            pool.update(self._alive(), self._capacities())

    def _asks(self, trajectories: Sequence[Trajectory], iteration: int, limits: Limits) -> tuple[Ask, ...]:
        return plan_asks(trajectories, iteration - 1, limits, seed=1, iteration=iteration)


def _goes_on(trajectory: Trajectory, piece: Piece) -> bool:
    return trajectory.state is TrajectoryState.UNFINISHED and piece.completion.finish_reason == "abort"


class Answer(httpx.AsyncByteStream):
    """The samples of one request, sampled a token at a time and sent a few at once."""

    def __init__(
        self, world: World, server: str, prefix: tuple[int, ...], num_samples: int, max_tokens: int, end: asyncio.Event
    ) -> None:
        self._world, self._server, self._end = world, server, end
        rest = truth(prefix[0], world.lengths[prefix[0]])[len(prefix) - 2 :]
        self._reason = "stop" if len(rest) <= max_tokens else "length"
        self._tokens = rest[:max_tokens]
        # Samples end at different times: each number has a pace of its own.
        self._paces = [world.lives[server].pace / (1 + number / 2) for number in range(num_samples)]
        self._prefix_tokens = len(prefix)
        self._sampled = [0] * num_samples
        self._sent = [0] * num_samples
        self._held = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            started = asyncio.get_running_loop().time()
            while any(sent < len(self._tokens) for sent in self._sent):
                await asyncio.sleep(1 / max(self._paces))
                if self._world._is_dead(self._server):
                    raise httpx.ReadError("connection reset by peer")
                self._sample(asyncio.get_running_loop().time() - started)
                choices = [choice for number in range(len(self._sent)) if (choice := self._part(number)) is not None]
                if choices:
                    yield "".join(map(event, choices)).encode()
                if self._end.is_set():
                    return
        finally:
            self._hold(0)

    def _sample(self, seconds: float) -> None:
        self._sampled = [min(len(self._tokens), int(seconds * pace + 1e-9)) for pace in self._paces]
        self._hold(sum(self._prefix_tokens + num for num in self._sampled if num < len(self._tokens)))

    def _hold(self, num_tokens: int) -> None:
        world, server = self._world, self._server
        world.held[server] += num_tokens - self._held
        world.most_held[server] = max(world.most_held[server], world.held[server])
        self._held = num_tokens

    def _part(self, number: int) -> Choice | None:
        """Return what is sent of a sample now: the first token, then a few at once, and what is left at its end."""
        first, last = self._sent[number], self._sampled[number]
        is_over = last == len(self._tokens) or self._end.is_set()
        if first == len(self._tokens) or not (is_over or (last and not first) or last - first >= STREAM_TOKENS):
            return None
        if is_over and not last:
            return None
        self._sent[number] = last
        self._world.sent[self._server] += last - first
        reason = (self._reason if last == len(self._tokens) else "abort") if is_over else None
        return {
            "index": number,
            "token_ids": list(self._tokens[first:last]),
            "logprobs": {"token_logprobs": [-0.5] * (last - first)},
            "finish_reason": reason,
        }
