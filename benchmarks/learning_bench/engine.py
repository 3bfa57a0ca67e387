"""The tiny engine: servers' completions protocol and trainers' API over one small model, in one process.

It stands where vLLM, Megatron-Core and the checkpoint engine stand in a real job, and speaks as they do.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.learning_bench.sampler import Sampled, SampleRequest, sample
from benchmarks.learning_bench.trainer import LogprobsDiffer, TinyTrainer
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.tandem_master.engine_stub import serving, streamed

from tandem_api.engine import (
    CheckpointRequest,
    CheckpointStep,
    JobConfig,
    ProblemDetails,
    SaveRequest,
    SaveResponse,
    TrainRequest,
)

GATHER_SECONDS = 0.03
"""A batch of requests is sampled once none has come for so long."""


class CompletionBody(BaseModel):
    """What of a request for completions matters here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: tuple[int, ...]
    n: int
    max_tokens: int
    temperature: float
    seed: int
    stream_interval: int

    @property
    def wanted(self) -> SampleRequest:
        return SampleRequest(self.prompt, self.n, self.max_tokens, self.temperature, self.seed)


@dataclass(slots=True)
class Waiting:
    """A request that waits for its samples."""

    wanted: SampleRequest
    answer: "asyncio.Future[tuple[Sampled, ...]]"


@dataclass(slots=True)
class TinyEngine:
    """One policy: it samples and is trained, one thing at a time."""

    model: Any
    """A causal language model of transformers, on a CPU."""
    eos_token_id: int
    config: JobConfig
    token: str
    examine: Any = None
    """Called with the model for the initial policy and after each training; what it returns is kept."""
    generation: int = 0
    examined: list[float] = field(default_factory=list)
    """By generation."""
    _queue: "asyncio.Queue[Waiting]" = field(default_factory=asyncio.Queue)
    _trainer: TinyTrainer = field(init=False)

    def __post_init__(self) -> None:
        spec = self.config.spec
        self._trainer = TinyTrainer(self.model, spec.trainer, spec.recipe)
        self._examine()

    def app(self) -> Starlette:
        """Return what is served: paths and bodies are those of vLLM and of the trainer's engine."""
        return Starlette(
            routes=[
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/train", self._train, methods=["POST"]),
                Route("/v1/save", self._save, methods=["POST"]),
                Route("/v1/checkpoints", self._checkpoint, methods=["POST"]),
            ]
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Serve on a port of 127.0.0.1, which is given, while the context is open."""
        sampling = asyncio.create_task(self._sample_forever(), name="tiny engine")
        try:
            async with serving(self) as port:
                yield port
        finally:
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling

    async def _complete(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = CompletionBody.model_validate_json(await request.body())
        waiting = Waiting(body.wanted, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        samples = await waiting.answer
        return Response(streamed(_pieces(samples, body.stream_interval)), media_type="text/event-stream")

    async def _sample_forever(self) -> None:
        """Answer what waits, all of it in one batch; meanwhile the next one gathers."""
        while True:
            batch = [await self._queue.get()]
            with suppress(TimeoutError):
                while True:
                    batch.append(await asyncio.wait_for(self._queue.get(), GATHER_SECONDS))
            wanted = [waiting.wanted for waiting in batch]
            try:
                answers = await asyncio.to_thread(sample, self.model, wanted, self.eos_token_id)
            except Exception as error:  # noqa: BLE001 - whoever waits hears of it, and the engine goes on
                for waiting in batch:
                    waiting.answer.set_exception(error)
                continue
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    async def _train(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = TrainRequest.model_validate_json(await request.body())
        if body.generation != self.generation:
            return _problem(409, f"generation {self.generation} is held, not {body.generation}")
        try:
            answer = await asyncio.to_thread(self._trainer.train, body)
        except LogprobsDiffer as error:
            return _problem(422, str(error))
        self.generation += 1
        await asyncio.to_thread(self._examine)
        return Response(answer.model_dump_json(), media_type="application/json")

    def _examine(self) -> None:
        if self.examine is not None:
            self.examined.append(self.examine(self.model))

    async def _save(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        return await self._write(Path(SaveRequest.model_validate_json(await request.body()).path))

    async def _checkpoint(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = CheckpointRequest.model_validate_json(await request.body())
        if body.step is CheckpointStep.COMMIT:
            return await self._write(Path(body.path))
        return _saved(Path(body.path), 0)

    async def _write(self, folder: Path) -> Response:
        await asyncio.to_thread(self.model.save_pretrained, folder)
        return _saved(folder, 4 * self.model.num_parameters())

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.get("authorization") == f"Bearer {self.token}":
            return None
        return _problem(401, "the job's token is wanted")


def _pieces(samples: Sequence[Sampled], interval: int) -> list[Mapping[str, object]]:
    """Return what streams in: `interval` tokens of a sample at a time, the last piece with the reason of its end."""
    pieces: list[Mapping[str, object]] = []
    for index, one in enumerate(samples):
        for start in range(0, len(one.token_ids), interval):
            end = start + interval
            pieces.append(
                {
                    "index": index,
                    "token_ids": one.token_ids[start:end],
                    "logprobs": {"token_logprobs": one.logprobs[start:end]},
                    "finish_reason": one.finish_reason if end >= len(one.token_ids) else None,
                }
            )
    return pieces


def _saved(folder: Path, num_bytes: int) -> Response:
    answer = SaveResponse(path=str(folder), num_bytes=num_bytes)
    return Response(answer.model_dump_json(), media_type="application/json")


def _problem(status: int, detail: str) -> Response:
    details = ProblemDetails(title="Not done", status=status, detail=detail)
    return Response(details.model_dump_json(), status_code=status, media_type="application/problem+json")
