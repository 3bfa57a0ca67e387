"""Real vLLM servers for tests: forked from one zygote, asked as the master asks them."""

import asyncio
import ctypes
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
from pydantic import BaseModel, JsonValue

from tandem_checkpoint.process.environment import child_variables
from tandem_checkpoint.process.parent import PR_SET_CHILD_SUBREAPER, adopt_orphans
from tandem_checkpoint.process.server import Server
from tandem_checkpoint.process.zygote import Zygote
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.rollout import server_command
from tandem_checkpoint.switch.strategies.choice import ZYGOTE_PROGRAM
from tandem_checkpoint.switch.strategies.resident import Resident
from tandem_checkpoint.switch.strategies.restart import Restart
from tandem_checkpoint.switch.strategies.strategy import Strategy, Weights
from tests.tandem_checkpoint.etcd_process import free_address
from tests.tandem_checkpoint.jobs import TOKEN, job_config, settings_of
from tests.tandem_sidecars.generations import Generation
from tests.tandem_sidecars.policies import logprobs

LIMIT = 1e-5
"""Nats between transformers and the server, float32 on both sides."""
ZYGOTE_SECONDS = 240.0
SERVE_SECONDS = 120.0
PORT = 8000
SAMPLED = re.compile(r"^vllm:generation_tokens_total\{.*\} [1-9]", re.MULTILINE)
PROMPT = (3, 9, 27, 17, 51, 25)
ENGINE_ARGUMENTS: dict[str, JsonValue] = {"kv_cache_memory_bytes": 33554432, "max_num_seqs": 256}
Answer = TypeVar("Answer", bound=BaseModel)
Chosen = TypeVar("Chosen", Restart, Resident)


class Logprobs(BaseModel):
    token_logprobs: tuple[float, ...]


class Choice(BaseModel):
    token_ids: tuple[int, ...]
    logprobs: Logprobs
    finish_reason: str


class Completion(BaseModel):
    choices: tuple[Choice, ...]


class Span(BaseModel):
    """Tokens of one answer that were sampled with one version of the weights."""

    version: str
    start: int
    end: int


class StampedChoice(BaseModel):
    weight_versions: tuple[Span, ...]


class Stamped(BaseModel):
    choices: tuple[StampedChoice, ...]


@dataclass(slots=True)
class Lent:
    """A zygote that outlives the strategy that it is lent to."""

    zygote: Zygote

    async def fork(self, arguments: Sequence[str]) -> Server:
        return await self.zygote.fork(arguments)

    async def wait(self) -> str:
        return await self.zygote.wait()

    async def kill(self) -> None:
        """Nothing: others use it."""


@dataclass(slots=True)
class Engine:
    """One zygote, and servers of any policy forked from it."""

    zygote: Zygote
    address: str

    def command(self, policy: Path, **engine_args: JsonValue) -> tuple[str, ...]:
        """Return the command line of a server of a policy."""
        config = job_config(policy, engine_args=ENGINE_ARGUMENTS | engine_args)
        return tuple(server_command(settings_of(config, policy.parent, self.address), PORT))

    @asynccontextmanager
    async def prepared(self, policy: Path, **engine_args: JsonValue) -> AsyncIterator[Restart]:
        """Fork one server of a policy; it is gone at the end."""
        command = self.command(policy, **engine_args)
        async with self.closing(Restart(Lent(self.zygote), [command])) as strategy:
            await strategy.prepare()
            yield strategy

    @asynccontextmanager
    async def serving(self, policy: Path, generation: Generation, **engine_args: JsonValue) -> AsyncIterator[Restart]:
        async with self.prepared(policy, **engine_args) as strategy:
            await serve(strategy, generation)
            yield strategy

    @asynccontextmanager
    async def resident(self, policy: Path, generation: Generation, **engine_args: JsonValue) -> AsyncIterator[Resident]:
        """Serve a generation with a server that stays; it is gone at the end."""
        command = self.command(policy, **engine_args)
        async with self.closing(Resident(Lent(self.zygote), [command])) as strategy:
            await strategy.prepare()
            await serve(strategy, generation)
            yield strategy

    @asynccontextmanager
    async def closing(self, strategy: Chosen) -> AsyncIterator[Chosen]:
        """End the servers of a strategy, whatever happens."""
        try:
            yield strategy
        finally:
            await strategy.close()

    def servers(self) -> list[psutil.Process]:
        """Return the processes that the zygote has forked."""
        children: list[psutil.Process] = psutil.Process(self.zygote.pid).children()
        return children

    async def complete(
        self, num_samples: int = 4, max_tokens: int = 12, ignore_eos: bool = False, seed: int = 5
    ) -> Completion:
        """Sample from the running server as the master does."""
        body: dict[str, JsonValue] = {
            "model": "policy",
            "prompt": list(PROMPT),
            "n": num_samples,
            "max_tokens": max_tokens,
            "temperature": 1.0,
            "logprobs": 0,
            "return_token_ids": True,
            "ignore_eos": ignore_eos,
            "seed": seed,
        }
        return await self._ask("/v1/completions", body, Completion)

    async def complete_in_turn(self, num_samples: int = 4) -> Completion:
        """Sample one after another. The samples of `complete` share batches, by when each comes to the engine.

        A batch of another size is multiplied by another kernel, whose sums have another order: the same server gives
        the same sample log-probabilities that differ by up to 2e-6 nats in float32. In turn it gives the same bits.
        """
        answers = [await self.complete(num_samples=1, seed=seed) for seed in range(num_samples)]
        return Completion(choices=tuple(choice for answer in answers for choice in answer.choices))

    async def until_sampling(self) -> None:
        """Wait until the running server has sampled a token: by its own count, which begins at zero."""
        async with asyncio.timeout(SERVE_SECONDS), self._client() as client:
            while not SAMPLED.search(await _text(client, "/metrics")):  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.005)

    async def stamped(self, max_tokens: int = 8) -> Stamped:
        """Sample by the route that tells with which weights; the server needs enable_scale_out."""
        sampling: JsonValue = {"max_tokens": max_tokens, "ignore_eos": True, "seed": 5}
        body: dict[str, JsonValue] = {"model": "policy", "token_ids": list(PROMPT), "sampling_params": sampling}
        return await self._ask("/inference/v1/generate", body, Stamped)

    async def _ask(self, path: str, body: dict[str, JsonValue], answer: type[Answer]) -> Answer:
        async with self._client() as client:
            response = await client.post(path, json=body)
        return answer.model_validate_json(response.raise_for_status().content)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://{self.address}:{PORT}",
            timeout=SERVE_SECONDS,
            headers={"Authorization": f"Bearer {TOKEN}"},
        )


async def _text(client: httpx.AsyncClient, path: str) -> str:
    return (await client.get(path)).raise_for_status().text


@asynccontextmanager
async def running_engine(policy: Path, program: str = ZYGOTE_PROGRAM) -> AsyncIterator[Engine]:
    """Start a zygote, which imports vLLM, and end it with all of its servers."""
    address = free_address()
    settings = settings_of(job_config(policy), policy.parent, address)
    with adopting():
        async with _zygote(settings, program) as zygote:
            yield Engine(zygote, address)


@asynccontextmanager
async def _zygote(settings: Settings, program: str) -> AsyncIterator[Zygote]:
    zygote = await Zygote.start(
        [sys.executable, "-m", program, "--device", "cpu"],
        child_variables(settings)
        | {"VLLM_API_KEY": TOKEN, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        inherit=(),
        deadline_seconds=ZYGOTE_SECONDS,
    )
    try:
        yield zygote
    finally:
        await zygote.kill()


@contextmanager
def adopting() -> Iterator[None]:
    """Have orphans fall to this process, as to a pod's engine: PID 1 takes a second to bury them."""
    adopt_orphans()
    try:
        yield
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)


def checked(generation: Generation) -> Weights:
    """Return what a rollout side gives a strategy, once it has compared the checksums."""

    async def path() -> Path:
        return generation.manifest

    return path


async def serve(strategy: Strategy, generation: Generation) -> None:
    async with asyncio.timeout(SERVE_SECONDS):
        await strategy.serve(checked(generation), Stopwatch())


def largest_gap(completion: Completion, policy: Path) -> float:
    """Return the largest distance between the server's log-probabilities and those that transformers gives."""
    return max(gap(choice, policy) for choice in completion.choices)


def gap(choice: Choice, policy: Path) -> float:
    expected = logprobs(policy, (*PROMPT, *choice.token_ids))[len(PROMPT) - 1 :]
    return max(abs(one - other) for one, other in zip(choice.logprobs.token_logprobs, expected, strict=True))
