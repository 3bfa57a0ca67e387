"""The servers' HTTP protocol: vLLM's completions, with token ids and log-probabilities."""

import asyncio
from dataclasses import dataclass
from typing import Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tandem_master.errors import RolloutError
from tandem_master.rollout.segments import Ask, Completion, FinishReason

REQUEST_SECONDS = 600.0
"""Deadline of one request for samples."""
SERVED_MODEL = "policy"
"""Name under which every server offers the policy."""


class ServerUnavailable(Exception):  # noqa: N818 - not an error of the run yet: another server may answer
    """This server did not answer; another one may."""


class AnswerLogprobs(BaseModel):
    """Log-probabilities as vLLM reports them; other fields of its answer are of no use here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    token_logprobs: tuple[float, ...]


class AnswerChoice(BaseModel):
    """One sampled continuation."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    index: int
    token_ids: tuple[int, ...]
    logprobs: AnswerLogprobs
    finish_reason: FinishReason

    @model_validator(mode="after")
    def _as_many_logprobs_as_tokens(self) -> Self:
        if len(self.token_ids) != len(self.logprobs.token_logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens, {len(self.logprobs.token_logprobs)} log-probabilities")
        return self


class Answer(BaseModel):
    """The body of a completion."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    choices: tuple[AnswerChoice, ...]


class ServerLost(ServerUnavailable):
    """The connection to this server is gone, or the server has left: it may be dead."""


@dataclass(frozen=True, slots=True)
class CompletionApi:
    """Asks one server at a time. `client` carries the job's token."""

    client: httpx.AsyncClient
    temperature: float

    async def complete(self, server: str, ask: Ask) -> tuple[Completion, ...]:
        """Return one completion for each trajectory of `ask`.

        Errors: ServerUnavailable, or ServerLost, where another server may answer; RolloutError where none would.
        """
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self.client.post(f"{server}/v1/completions", json=request_body(ask, self.temperature))
        except httpx.TransportError as error:
            raise ServerLost(f"{server}: {type(error).__name__} {error}".rstrip()) from error
        except TimeoutError as error:
            raise ServerUnavailable(f"{server}: no answer within {REQUEST_SECONDS:g} s") from error
        if response.status_code >= 500:
            raise ServerUnavailable(f"{server}: {response.status_code} {response.text[:200]}")
        if response.status_code != 200:
            raise RolloutError(f"{server}: refused a request for samples: {response.status_code} {response.text[:400]}")
        return _completions(server, ask, response.content)


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
        "seed": ask.seed,
    }


def _completions(server: str, ask: Ask, content: bytes) -> tuple[Completion, ...]:
    try:
        answer = Answer.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RolloutError(f"{server}: its answer cannot be used: {where}: {first['msg']}") from error
    if len(answer.choices) != len(ask.trajectories):
        raise RolloutError(f"{server}: {len(ask.trajectories)} samples were asked for, {len(answer.choices)} came")
    return tuple(
        Completion(choice.token_ids, choice.logprobs.token_logprobs, choice.finish_reason)
        for choice in sorted(answer.choices, key=lambda choice: choice.index)
    )
