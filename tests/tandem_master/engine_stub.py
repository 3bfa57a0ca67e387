"""A local HTTP server that speaks as the pods do: completions, training, saving."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tandem_api.engine import (
    CheckpointRequest,
    CheckpointStep,
    ProblemDetails,
    SaveRequest,
    SaveResponse,
    SaveStep,
    StepMetrics,
    TrainRequest,
    TrainResponse,
)
from tests.tandem_master.texts import EOS, VOCABULARY

TOKEN = "secret"
Choice = Mapping[str, Any]
"""One sample, or a part of it, as a server writes it."""
KEPT_SECONDS = 600
"""Idle connections stay open so long: client and server share an event loop, and on a busy machine one would be closed
while a request is on its way."""
WRONG = (VOCABULARY["9"], EOS)


class Served(Protocol):
    """Whatever is served by HTTP."""

    def app(self) -> Starlette: ...


class EngineStub:
    """Answers even samples of a problem with its solution and odd ones with 9; remembers what it was asked."""

    ends_requests = True
    """Whether it has the route by which requests are ended."""
    cache_tokens: int | None = None
    """Size of its key/value cache; None: it does not say."""

    def __init__(self, solutions: Mapping[str, str]) -> None:
        self.solutions = {_tokens(prompt): (*_tokens(answer), EOS) for prompt, answer in solutions.items()}
        self.num_failing = 0
        """Completions of what was learned by `know` that end with an error, one after the other."""
        self.held_prompts: set[tuple[int, ...]] = set()
        """Prompts whose completions hang."""
        self.hold_after_saving = ""
        """Folder after whose saving all completions hang."""
        self.hopeless: set[str] = set()
        """Prompts that no sample solves."""
        self.hopeless_in: Callable[[int], set[str]] = lambda generation: set()
        """Prompts that no sample of a generation solves."""
        self._also_known: set[tuple[int, ...]] = set()
        self.num_before_holding: int | None = None
        """Answers after which completions hang until their client goes."""
        self.held_samples: set[int] = set()
        """Samples of fresh requests of which a first token comes at once, and the rest not before the request is ended:
        then one more."""
        self.dropped_samples: set[int] = set()
        """The same, but the connection breaks after the first token."""
        self.ended: dict[str, asyncio.Event] = {}
        """By the request's name: set when it is to end."""
        self.refusal: str | None = None
        """Why /v1/train refuses."""
        self.broken_epochs: frozenset[int] = frozenset()
        """Epochs in which a rank ends during /v1/train."""
        self.broken_saves: set[str] = set()
        """Names of folders at which a rank ends as they are begun, once each."""
        self.num_full = 0
        """Checkpoints that find the disk full."""
        self.writing_began = asyncio.Event()
        self.writing_may_end = asyncio.Event()
        self.writing_may_end.set()
        self.training_may_end = asyncio.Event()
        self.training_may_end.set()
        self.held = asyncio.Event()
        """Set when a completion hangs."""
        self.training_began = asyncio.Event()
        self.disconnected = asyncio.Event()
        """Set when the client of a hanging completion has gone."""
        self.answered: list[tuple[tuple[int, ...], int]] = []
        """Prompt and seed of every completion that was answered."""
        self.train_requests: list[TrainRequest] = []
        self.made = {0}
        """Generations that there are: the initial policy, and what came of every training."""
        self.saved: list[str] = []
        self.save_steps: list[SaveStep] = []
        """Names of the folders that were put in their place."""
        self.first_saved = asyncio.Event()

    def know(self, solutions: Mapping[str, str]) -> None:
        """Have more problems than those that are trained on."""
        self.solutions |= {_tokens(prompt): (*_tokens(answer), EOS) for prompt, answer in solutions.items()}
        self._also_known = self.prompts(solutions)

    def prompts(self, solutions: Mapping[str, str]) -> set[tuple[int, ...]]:
        """Return the prompts of these problems in tokens."""
        return {_tokens(prompt) for prompt in solutions}

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/inference/v1/abort_requests", self._abort, methods=["POST"]),
                Route("/metrics", self._tell_metrics, methods=["GET"]),
                Route("/v1/train", self._train, methods=["POST"]),
                Route("/v1/save", self._save, methods=["POST"]),
                Route("/v1/checkpoints", self._checkpoint, methods=["POST"]),
            ]
        )

    async def _complete(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        body = await request.json()
        if self.num_before_holding is not None and len(self.answered) >= self.num_before_holding:
            return await self._hang(request)
        prompt = tuple(body["prompt"])
        if prompt in self.held_prompts or self.hold_after_saving in self.saved:
            return await self._hang(request)
        if prompt in self._also_known and self.num_failing > 0:
            self.num_failing -= 1
            return Response(status_code=500)
        self.answered.append((prompt, body["seed"]))
        choices = [self._choice(prompt, index, body["max_tokens"]) for index in range(body["n"])]
        is_fresh = prompt[-1] == VOCABULARY["="]
        if is_fresh and (self.held_samples | self.dropped_samples) & {*range(body["n"])}:
            ended = self.ended.setdefault(request.headers["x-request-id"], asyncio.Event())
            return StreamingResponse(self._in_parts(choices, ended), media_type="text/event-stream")
        return Response(streamed(choices), media_type="text/event-stream")

    async def _in_parts(self, choices: Sequence[Choice], ended: asyncio.Event) -> AsyncIterator[str]:
        slow = [choice for choice in choices if choice["index"] in self.held_samples | self.dropped_samples]
        for choice in choices:
            yield event(part_of(choice, 0, 1) if choice in slow else choice)
        if self.dropped_samples:
            raise ConnectionResetError("the server dies")
        await ended.wait()
        for choice in slow:
            yield event({**part_of(choice, 1, 2), "finish_reason": "abort"})

    async def _tell_metrics(self, _: Request) -> Response:
        if self.cache_tokens is None:
            return Response(status_code=404)
        return Response(f'vllm:cache_config_info{{kv_cache_size_tokens="{self.cache_tokens + 1}",block_size="1"}} 1.0')

    async def _abort(self, request: Request) -> Response:
        if not self.ends_requests:
            return Response(status_code=404)
        for name in (await request.json())["request_ids"]:
            self.ended.setdefault(name.removeprefix("cmpl-").removesuffix("-0"), asyncio.Event()).set()
        return Response()

    async def _hang(self, request: Request) -> Response:
        self.held.set()
        await request.body()
        while (await request.receive())["type"] != "http.disconnect":
            continue
        self.disconnected.set()
        return Response(status_code=499)

    def _choice(self, prompt: tuple[int, ...], index: int, max_tokens: int) -> Choice:
        end = prompt.index(VOCABULARY["="]) + 1
        is_wrong = index % 2 or prompt[:end] in map(_tokens, self._hopeless_now())
        rest = (WRONG if is_wrong else self.solutions[prompt[:end]])[len(prompt) - end :]
        return {
            "index": index,
            "token_ids": list(rest[:max_tokens]),
            "logprobs": {"token_logprobs": [-0.5] * len(rest[:max_tokens])},
            "finish_reason": "stop" if len(rest) <= max_tokens else "length",
        }

    def _hopeless_now(self) -> set[str]:
        """Return the prompts that no sample solves with the newest generation."""
        return self.hopeless | self.hopeless_in(max(self.made))

    async def _train(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        body = TrainRequest.model_validate_json(await request.body())
        self.training_began.set()
        await self.training_may_end.wait()
        if self.refusal is not None:
            return _problem(422, self.refusal)
        if body.epoch in self.broken_epochs:
            return _problem(500, "rank 1 ended: killed by SIGKILL")
        self.train_requests.append(body)
        self.made.add(body.generation + 1)
        rates = (1e-6 / number for number in range(1, len(body.steps) + 1))
        steps = tuple(StepMetrics(loss=0.5, gradient_norm=2.0, learning_rate=rate) for rate in rates)
        answer = TrainResponse(
            max_abs_logprob_difference=1e-6, num_logprobs=9, kl=0.01, steps=steps, num_tokens=10, seconds=0.0
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    async def _save(self, request: Request) -> Response:
        body = SaveRequest.model_validate_json(await request.body())
        self.save_steps.append(body.step)
        return await self._put_in_place(Path(body.path))

    async def _checkpoint(self, request: Request) -> Response:
        body = CheckpointRequest.model_validate_json(await request.body())
        folder = Path(body.path)
        match body.step:
            case CheckpointStep.BEGIN:
                if folder.name in self.broken_saves:
                    self.broken_saves.remove(folder.name)
                    return _problem(500, "rank 0 ended: killed by SIGKILL")
            case CheckpointStep.PREPARE:
                if self.num_full > 0:
                    self.num_full -= 1
                    return _problem(507, f"{folder}: cannot be written (No space left on device); free space")
            case CheckpointStep.WRITE:
                self.writing_began.set()
                await self.writing_may_end.wait()
            case CheckpointStep.COMMIT:
                return await self._put_in_place(folder)
        return _saved(folder)

    async def _put_in_place(self, folder: Path) -> Response:
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        self.saved.append(folder.name)
        self.first_saved.set()
        return _saved(folder)


@asynccontextmanager
async def serving(stub: Served) -> AsyncIterator[int]:
    """Serve a stub on a free port of 127.0.0.1 and return the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        stub.app(),
        log_level="warning",
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=KEPT_SECONDS,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="engine stub")
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


def streamed(choices: Sequence[Choice]) -> str:
    """Return an answer as it streams in, each of `choices` in an event of its own."""
    return "".join(map(event, choices)) + "data: [DONE]\n\n"


def event(choice: Choice) -> str:
    """Return one event of a stream."""
    return f"data: {json.dumps({'id': 'cmpl-1', 'choices': [choice]})}\n\n"


def part_of(choice: Choice, first: int, last: int) -> Choice:
    """Return some tokens of a sample, which goes on."""
    token_ids = choice["token_ids"][first:last]
    logprobs = {"token_logprobs": [-0.5] * len(token_ids)}
    return {**choice, "token_ids": token_ids, "logprobs": logprobs, "finish_reason": None}


def _saved(folder: Path) -> Response:
    return Response(SaveResponse(path=str(folder), num_bytes=0).model_dump_json(), media_type="application/json")


def _problem(status: int, detail: str) -> Response:
    details = ProblemDetails(title="Not done", status=status, detail=detail)
    return Response(details.model_dump_json(), status_code=status, media_type="application/problem+json")


def _tokens(text: str) -> tuple[int, ...]:
    return tuple(VOCABULARY[character] for character in text)
