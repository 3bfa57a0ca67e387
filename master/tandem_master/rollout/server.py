"""The servers' HTTP protocol: vLLM's completions, whose token ids and log-probabilities stream in."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
from msgspec import DecodeError, Struct, json

from tandem_master.errors import RolloutError
from tandem_master.rollout.answer import Part
from tandem_master.rollout.repeats import RepeatRule
from tandem_master.rollout.segments import Ask, FinishReason
from tandem_master.rollout.silence import Silence

SILENCE_SECONDS = 600.0
"""Deadline of each part of an answer. The answer as a whole has none of its own: it may be as long as its tokens."""
ABORT_SECONDS = 2.0
"""Deadline of the order to end requests."""
STREAM_TOKENS = 64
"""Tokens of a response that come at once: fewer would find repeats earlier, and cost the master more."""
REQUEST_ID = "X-Request-Id"
"""Header by which vLLM is told what to call a request."""
END_OF_STREAM = "[DONE]"
SERVED_MODEL = "policy"
"""Name under which every server offers the policy."""


class ServerUnavailable(Exception):  # noqa: N818 - not an error of the run yet: another server may answer
    """This server did not answer; another one may."""


class ChunkLogprobs(Struct, frozen=True, gc=False):
    """Log-probabilities as vLLM reports them; other fields of its answer are of no use here."""

    token_logprobs: tuple[float, ...]


class ChunkChoice(Struct, frozen=True, gc=False):
    """What has come of one sample."""

    index: int
    token_ids: tuple[int, ...]
    logprobs: ChunkLogprobs
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs.token_logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens, {len(self.logprobs.token_logprobs)} log-probabilities")

    @property
    def part(self) -> Part:
        return Part(self.token_ids, self.logprobs.token_logprobs, self.finish_reason)


class ChunkError(Struct, frozen=True, gc=False):
    """Why a stream does not go on."""

    message: str = ""


class Chunk(Struct, frozen=True, gc=False):
    """One event of a stream. All of a job's tokens come in such events, so they are read by a compiled decoder."""

    choices: tuple[ChunkChoice, ...] = ()
    error: ChunkError | None = None


CHUNKS = json.Decoder(Chunk)


class ServerLost(ServerUnavailable):
    """The connection to this server is gone, or the server has left: it may be dead."""


Take = Callable[[Sequence[tuple[int, Part]]], bool]
"""Takes in parts of samples, by number; returns whether more is wanted."""


@dataclass(frozen=True, slots=True)
class CompletionApi:
    """Asks one server at a time. `client` carries the job's token."""

    client: httpx.AsyncClient
    temperature: float
    repeats: RepeatRule | None = None
    """When a response is stopped because it repeats itself; None: never."""
    heard: Callable[[], None] = lambda: None
    """Called whenever something was sampled."""
    silence: Silence = field(default_factory=lambda: Silence(SILENCE_SECONDS))

    async def take_in(self, server: str, ask: Ask, name: str, take: Take) -> None:
        """Send a request under `name`, and hand on what streams in, up to the stream's end or until nothing more is
        wanted.

        Errors: ServerUnavailable, or ServerLost, where another server may answer; RolloutError where none would.
        """
        body = request_body(ask, self.temperature)
        try:
            async with (
                self.silence.limited() as heard,
                self.client.stream(
                    "POST", f"{server}/v1/completions", json=body, headers={REQUEST_ID: name}
                ) as response,
            ):
                await _check(server, response)
                async for line in response.aiter_lines():
                    heard()
                    kind, _, event = line.partition(": ")
                    if kind == "data" and event != END_OF_STREAM and not self._hand_on(server, event, take):
                        return
        except httpx.TransportError as error:
            raise ServerLost(f"{server}: {type(error).__name__} {error}".rstrip()) from error
        except TimeoutError as error:
            raise ServerUnavailable(f"{server}: silent for {SILENCE_SECONDS:g} s") from error

    async def abort(self, server: str, names: Sequence[str]) -> bool:
        """Have a server end requests, and send with their last part what it has sampled of them; return whether it
        has heard.
        """
        ids = {"request_ids": [f"cmpl-{name}-0" for name in names]}
        try:
            async with asyncio.timeout(ABORT_SECONDS):
                response = await self.client.post(f"{server}/inference/v1/abort_requests", json=ids)
        except (httpx.TransportError, TimeoutError):
            return False
        return response.status_code == 200

    def _hand_on(self, server: str, event: str, take: Take) -> bool:
        chunk = _parse(server, event)
        if not chunk.choices:
            return True
        self.heard()
        return take([(choice.index, choice.part) for choice in chunk.choices])


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


async def _check(server: str, response: httpx.Response) -> None:
    """Raise where a server does not answer with samples."""
    if response.status_code == 200:
        return
    text = (await response.aread()).decode(errors="replace")
    if response.status_code >= 500:
        raise ServerUnavailable(f"{server}: {response.status_code} {text[:200]}")
    raise RolloutError(f"{server}: refused a request for samples: {response.status_code} {text[:400]}")


def _parse(server: str, event: str) -> Chunk:
    try:
        chunk = CHUNKS.decode(event)
    except DecodeError as error:
        raise RolloutError(f"{server}: its answer cannot be used: {error}") from error
    if chunk.error is not None:
        raise ServerUnavailable(f"{server}: {chunk.error.message[:200]}")
    return chunk
