"""Our servers between two generations: killed and forked again (Restart), or updated in place (Resident)."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from benchmarks.report.result import PartError
from benchmarks.switch_bench.first_token import Client, client_of
from benchmarks.switch_bench.policies import Policy
from pydantic import JsonValue
from tests.tandem_sidecars.generations import Generation
from tests.tandem_sidecars.serving import SERVE_SECONDS, Engine, Lent, running_engine

from tandem_checkpoint.process.parent import adopt_orphans
from tandem_checkpoint.segments.manifest import Manifest, verify
from tandem_checkpoint.segments.store import map_for_reading
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.strategies.resident import Resident
from tandem_checkpoint.switch.strategies.restart import Restart

Words = Mapping[str, JsonValue]
"""vLLM's engine arguments beside those of the tests."""
ONE_WORKER: Words = {}
TWO_WORKERS: Words = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
LIMIT = 1e-4
"""Nats within which a generation answers as it did before; the two generations are further apart."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """One change of generation; times in seconds."""

    total: float
    """From the word to give the devices up to the first token with the new weights; what follows are its parts."""
    give_up: float
    """Killing the server until nothing of it is left; with servers that stay, ending what is being generated."""
    prepare: float
    """Fork, and parsing of the arguments."""
    start: float
    """vLLM's engine and the HTTP server."""
    load: float
    """From the word to bind until the weights are bound on every worker."""
    ready: float
    """Until the server says that it answers."""
    first_token: float
    """From asking it to the token."""


@dataclass(slots=True)
class Answers:
    """What each generation answers: a server that still had the old weights would be found out."""

    logprobs: dict[int, float] = field(default_factory=dict)

    def check(self, number: int, logprob: float) -> None:
        """Compare an answer with what the same and the other generation gave before; raise PartError."""
        if abs(self.logprobs.setdefault(number, logprob) - logprob) > LIMIT:
            raise PartError(f"generation {number} answers {logprob} nats now, and {self.logprobs[number]} before")
        others = [value for other, value in self.logprobs.items() if other != number]
        if any(abs(other - logprob) <= LIMIT for other in others):
            raise PartError(f"generation {number} answers {logprob} nats, as does the generation before")


@dataclass(slots=True)
class Cycling:
    """One server of ours that goes from generation to generation."""

    strategy: Restart | Resident
    client: Client
    policy: Policy
    answers: Answers = field(default_factory=Answers)
    number: int = 0
    """Of the generation that is served."""

    async def next(self) -> Cycle:
        """Change to the other generation. What a switch does beside the start is done here too: the checksums."""
        self.number = 1 - self.number
        generation, stopwatch = self.policy.generations[self.number], Stopwatch()
        began = perf_counter()
        checking = asyncio.create_task(asyncio.to_thread(_checked, generation), name="compare the checksums")
        with stopwatch.stage("give_up"):
            await self._give_up()
        with stopwatch.stage("prepare"):
            await self.strategy.prepare()
        async with asyncio.timeout(SERVE_SECONDS):
            await self.strategy.serve(lambda: checking, stopwatch)
        with stopwatch.stage("first_token"):
            await self.client.first_token()
        total = perf_counter() - began
        self.answers.check(self.number, await self.client.logprob())
        return Cycle(total, **{span.stage: span.seconds for span in stopwatch.spans})

    async def _give_up(self) -> None:
        if isinstance(self.strategy, Resident):
            await self.strategy.abort()
        else:
            await self.strategy.release()


@asynccontextmanager
async def zygote_of(policy: Policy) -> AsyncIterator[Engine]:
    """Start a zygote as an engine does: orphans of a killed server fall to this process, which reaps them at once."""
    adopt_orphans()
    async with running_engine(policy.folder) as engine:
        yield engine


@asynccontextmanager
async def restarting(engine: Engine, policy: Policy, workers: Words = ONE_WORKER) -> AsyncIterator[Cycling]:
    """Give a server that is restarted, after two cycles that do not count; it is gone at the end."""
    strategy = Restart(Lent(engine.zygote), [engine.command(policy.folder, **workers)])
    async with _cycling(engine, policy, strategy) as cycling:
        yield cycling


@asynccontextmanager
async def staying(engine: Engine, policy: Policy, workers: Words = ONE_WORKER) -> AsyncIterator[Cycling]:
    """Give a server that is updated in place, after two cycles that do not count; it is gone at the end."""
    strategy = Resident(Lent(engine.zygote), [engine.command(policy.folder, **workers)])
    async with _cycling(engine, policy, strategy) as cycling:
        yield cycling


@asynccontextmanager
async def _cycling(engine: Engine, policy: Policy, strategy: Restart | Resident) -> AsyncIterator[Cycling]:
    try:
        async with client_of(engine.address) as client:
            cycling = Cycling(strategy, client, policy)
            await cycling.next()
            await cycling.next()
            yield cycling
    finally:
        await strategy.close()


def _checked(generation: Generation) -> Path:
    """Compare every checksum and return the manifest."""
    manifest = Manifest.model_validate_json(generation.manifest.read_text())
    with map_for_reading(generation.segment) as mapped:
        verify(mapped, manifest.pieces)
    return generation.manifest
