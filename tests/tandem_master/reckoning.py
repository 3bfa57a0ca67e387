"""A stub whose every answer follows from its weights and the request, and whose weights follow from its training.

So two runs that end with the same weights have sampled and trained the same, in the same order.
"""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tandem_api.engine import StepMetrics, TrainRequest, TrainResponse
from tests.tandem_master.engine_stub import TOKEN, EngineStub, streamed
from tests.tandem_master.texts import EOS, VOCABULARY

WEIGHTS = "weights.json"
"""What a checkpoint holds."""
DIGITS = tuple(VOCABULARY[str(digit)] for digit in range(10))
MOST_TOKENS = 7
"""Of a response."""
Served = Callable[[], Awaitable[int]]
Register = Callable[[int], Awaitable[None]]


class ReckoningStub(EngineStub):
    """Holds the weights of every generation as a digest of all that they were trained on."""

    def __init__(self, solutions: Mapping[str, str], served: Served, register: Register, checkpoints: Path) -> None:
        """`served` tells which generation the servers have; `register` tells all that trainers hold one, before they
        answer that they have made it. A stub that begins anew has what `checkpoints` holds.
        """
        super().__init__(solutions)
        self._served = served
        self._register = register
        self.weights = _restored(checkpoints)
        self.made = set(self.weights)
        self._parts: dict[int, set[str]] = {}
        """What the pods were given to train a generation from."""

    async def _complete(self, request: Request) -> Response:
        try:
            body = await request.json()
        except ClientDisconnect:
            return Response(status_code=499)
        weights = self.weights[await self._served()]
        prompt = tuple(body["prompt"])
        self.answered.append((prompt, body["seed"]))
        choices = [
            self._reckoned(f"{weights}/{body['seed'] + number}/0", number, prompt, body["max_tokens"])
            for number in range(body["n"])
        ]
        return Response(streamed(choices), media_type="text/event-stream")

    def _reckoned(self, name: str, number: int, prompt: tuple[int, ...], max_tokens: int) -> dict[str, object]:
        """Return a sample that goes on with the solution where it can and the digest is even, else with any digits."""
        end = prompt.index(VOCABULARY["="]) + 1
        known, solution = prompt[end:], self.solutions[prompt[:end]]
        numbers = hashlib.sha256(name.encode()).digest()
        if numbers[0] % 2 == 0 and solution[: len(known)] == known:
            rest = solution[len(known) :]
        else:
            length = max(1, MOST_TOKENS - numbers[1] % 4 - len(known))
            rest = (*(DIGITS[value % 10] for value in numbers[2 : 2 + length]), EOS)
        cut = rest[:max_tokens]
        return {
            "index": number,
            "token_ids": list(cut),
            "logprobs": {"token_logprobs": [-value / 64 for value in numbers[: len(cut)]]},
            "finish_reason": "stop" if len(rest) <= max_tokens else "length",
        }

    async def _train(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        body = TrainRequest.model_validate_json(await request.body())
        self.train_requests.append(body)
        generation = body.generation + 1
        content = body.model_dump_json(include={"generation", "steps", "samples_per_step"})
        parts = self._parts.setdefault(generation, set())
        parts.add(_digest(content))
        self.weights[generation] = _digest("".join([self.weights[body.generation], *sorted(parts)]))
        self.made.add(generation)
        await self._register(generation)
        answer = TrainResponse(
            max_abs_logprob_difference=1e-6,
            num_logprobs=9,
            kl=0.01,
            steps=tuple(StepMetrics(loss=0.5, gradient_norm=2.0) for _ in body.steps),
            num_tokens=10,
            seconds=0.0,
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    async def _put_in_place(self, folder: Path) -> Response:
        generation = max(self.weights) if folder.name == "policy" else int(folder.name.rpartition("-")[2])
        await asyncio.to_thread(_write, folder, json.dumps({generation: self.weights[generation]}))
        return await super()._put_in_place(folder)


def _write(folder: Path, weights: str) -> None:
    """Make a folder with weights, whole or not at all."""
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    (aside / WEIGHTS).write_text(weights)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _restored(checkpoints: Path) -> dict[int, str]:
    """Return the weights of the initial policy and of all checkpoints."""
    weights = {0: "initial"}
    for path in checkpoints.glob(f"generation-*/{WEIGHTS}"):
        weights |= {int(generation): digest for generation, digest in json.loads(path.read_text()).items()}
    return weights


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
