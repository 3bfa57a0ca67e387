"""Asking a server for its first token, from the moment it is started: as soon as it can answer, it is asked."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from benchmarks.report.result import PartError
from pydantic import BaseModel
from tests.tandem_checkpoint.jobs import TOKEN
from tests.tandem_sidecars.serving import PORT, PROMPT

RETRY_SECONDS = 0.02
"""Pause after a refused connection; it is in the time of a server that takes long, never in that of one that is up."""
LONGEST_SECONDS = 300.0
REQUEST: Mapping[str, object] = {"model": "policy", "prompt": list(PROMPT), "max_tokens": 1, "temperature": 0.0}


class _Logprobs(BaseModel):
    token_logprobs: tuple[float, ...]


class _Choice(BaseModel):
    logprobs: _Logprobs


class _Completion(BaseModel):
    choices: tuple[_Choice, ...]


@dataclass(frozen=True, slots=True)
class Client:
    """Asks one server."""

    http: httpx.AsyncClient

    async def first_token(self, still_runs: Callable[[], bool] = lambda: True) -> None:
        """Return once a token has come. PartError: the server has ended, or takes too long."""
        async with asyncio.timeout(LONGEST_SECONDS):
            while still_runs():
                try:
                    answer = await self.http.post("/v1/completions", json=REQUEST)
                except httpx.ConnectError:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if answer.is_error:
                    raise PartError(f"the server answers {answer.status_code}: {answer.text[:200]}")
                return
        raise PartError("the server has ended before its first token")

    async def logprob(self) -> float:
        """Return the log-probability of the likeliest first token, nats: it tells generations apart."""
        answer = await self.http.post("/v1/completions", json={**REQUEST, "logprobs": 0})
        return _Completion.model_validate_json(answer.raise_for_status().content).choices[0].logprobs.token_logprobs[0]


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[Client]:
    """Give a client of the server at an address; no connection outlives a request, as its server may not either."""
    async with httpx.AsyncClient(
        base_url=f"http://{address}:{PORT}",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=LONGEST_SECONDS,
        limits=httpx.Limits(max_keepalive_connections=0),
        trust_env=False,
    ) as http:
        yield Client(http)
