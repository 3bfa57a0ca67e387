"""The servers' HTTP protocol: vLLM's completions, whose token ids and log-probabilities stream in."""

import asyncio
from dataclasses import dataclass
from typing import Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tandem_master.errors import RolloutError
from tandem_master.rollout.answer import Part, PartialAnswer, UnknownSample
from tandem_master.rollout.repeats import RepeatRule
from tandem_master.rollout.segments import Ask, Completion, FinishReason

REQUEST_SECONDS = 600.0
"""Deadline of one request for samples."""
STREAM_TOKENS = 64
"""Tokens of a response that come at once: fewer would find repeats earlier, and cost the master more."""
END_OF_STREAM = "[DONE]"
SERVED_MODEL = "policy"
"""Name under which every server offers the policy."""


class ServerUnavailable(Exception):  # noqa: N818 - not an error of the run yet: another server may answer
    """This server did not answer; another one may."""


class ChunkLogprobs(BaseModel):
    """Log-probabilities as vLLM reports them; other fields of its answer are of no use here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    token_logprobs: tuple[float, ...]


class ChunkChoice(BaseModel):
    """What has come of one sample."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    index: int
    token_ids: tuple[int, ...]
    logprobs: ChunkLogprobs
    finish_reason: FinishReason | None = None

    @model_validator(mode="after")
    def _as_many_logprobs_as_tokens(self) -> Self:
        if len(self.token_ids) != len(self.logprobs.token_logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens, {len(self.logprobs.token_logprobs)} log-probabilities")
        return self

    @property
    def part(self) -> Part:
        return Part(self.token_ids, self.logprobs.token_logprobs, self.finish_reason)


class ChunkError(BaseModel):
    """Why a stream does not go on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    message: str = ""


class Chunk(BaseModel):
    """One event of a stream."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    choices: tuple[ChunkChoice, ...] = ()
    error: ChunkError | None = None


class ServerLost(ServerUnavailable):
    """The connection to this server is gone, or the server has left: it may be dead."""


@dataclass(frozen=True, slots=True)
class CompletionApi:
    """Asks one server at a time. `client` carries the job's token."""

    client: httpx.AsyncClient
    temperature: float
    repeats: RepeatRule | None = None
    """When a response is stopped because it repeats itself; None: never."""

    async def complete(self, server: str, ask: Ask) -> tuple[Completion, ...]:
        """Return one completion for each trajectory of `ask`. One that repeats itself ends the whole answer: a server
        samples all of a request or nothing. What it had sampled of the others by then is returned as aborted.

        Errors: ServerUnavailable, or ServerLost, where another server may answer; RolloutError where none would.
        """
        answer = PartialAnswer(ask, self.repeats)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._take_in(server, ask, answer)
        except httpx.TransportError as error:
            raise ServerLost(f"{server}: {type(error).__name__} {error}".rstrip()) from error
        except TimeoutError as error:
            raise ServerUnavailable(f"{server}: no answer within {REQUEST_SECONDS:g} s") from error
        return answer.completions()

    async def _take_in(self, server: str, ask: Ask, answer: PartialAnswer) -> None:
        """Add what streams in to `answer`, to the stream's end or to the first response that repeats itself."""
        body = request_body(ask, self.temperature)
        async with self.client.stream("POST", f"{server}/v1/completions", json=body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                if response.status_code >= 500:
                    raise ServerUnavailable(f"{server}: {response.status_code} {text[:200]}")
                raise RolloutError(f"{server}: refused a request for samples: {response.status_code} {text[:400]}")
            async for line in response.aiter_lines():
                field, _, event = line.partition(": ")
                if field == "data" and event != END_OF_STREAM and _adds_a_repeat(server, event, answer):
                    return
        if not answer.is_complete:
            raise ServerLost(f"{server}: its answer ended before all samples had")


def request_body(ask: Ask, temperature: float) -> dict[str, object]:
    """Return the JSON of one request.

    Every parameter that changes the distribution is given: a server takes what is absent from the policy's
    generation_config.json, and then its log-probabilities would not be the trainer's.
    """
    return {
        "model": SERVED_MODEL,
        "prompt": list(ask.token_ids),
        "n": len(ask.trajectories),
        "max_tokens": ask.max_tokens,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logprobs": 0,
        "return_token_ids": True,
        "stream": True,
        "stream_interval": STREAM_TOKENS,
        "seed": ask.seed,
    }


def _adds_a_repeat(server: str, event: str, answer: PartialAnswer) -> bool:
    """Add one event to `answer`; return whether one of its responses repeats itself."""
    try:
        chunk = Chunk.model_validate_json(event)
        if chunk.error is not None:
            raise ServerUnavailable(f"{server}: {chunk.error.message[:200]}")
        repeats = [answer.add(choice.index, choice.part) for choice in chunk.choices]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RolloutError(f"{server}: its answer cannot be used: {where}: {first['msg']}") from error
    except UnknownSample as error:
        raise RolloutError(f"{server}: its answer cannot be used: {error}") from error
    return any(repeats)
