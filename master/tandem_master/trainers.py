"""The trainers' HTTP API, as far as the loop uses it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import ValidationError

from tandem_api.engine import (
    CheckpointRequest,
    CheckpointStep,
    ProblemDetails,
    SaveRequest,
    SaveResponse,
    SaveStep,
    TrainRequest,
    TrainResponse,
)
from tandem_api.registry import MemberRecord
from tandem_api.resource import Resource
from tandem_master.errors import Disagreement, TrainError
from tandem_master.tasks import together

TRAIN_SECONDS = 3600.0
"""Deadline of the training of one iteration."""
SAVE_SECONDS = 3600.0
"""Deadline of writing one checkpoint."""
BEGIN_SECONDS = 300.0
"""Deadline of fixing what a checkpoint is written from."""
OF_ALL = (CheckpointStep.BEGIN, CheckpointStep.WRITE)
"""Steps that every trainer takes."""

REFUSED = 422
"""A rank has looked at the request and will not carry it out."""

M = TypeVar("M", bound=Resource)


@dataclass(frozen=True, slots=True)
class Trainer:
    """The train member of one pod."""

    pod: str
    record: MemberRecord

    def url(self, path: str) -> str:
        return f"{self.record.url}{path}"


@dataclass(frozen=True, slots=True)
class TrainerApi:
    """Talks to all trainers of a job. `client` carries the job's token."""

    client: httpx.AsyncClient
    find: Callable[[], Sequence[Trainer]]
    """Returns the trainers that are registered now, by the order of their ranks."""

    @property
    def trainers(self) -> Sequence[Trainer]:
        return self.find()

    async def train(self, requests: Mapping[str, TrainRequest]) -> TrainResponse:
        """Train one iteration: each pod is sent its request, all at once.

        Returns what the first trainer says: the figures are of all ranks already. Errors: TrainError.
        """
        trainers = self.trainers
        if {item.pod for item in trainers} != requests.keys():
            raise TrainError("the trainers have changed since the batch was made; it is made again")
        work = [self._post(item, "/v1/train", requests[item.pod], TrainResponse, TRAIN_SECONDS) for item in trainers]
        return (await together(work, name="train"))[0]

    async def save(self, folder: Path, generation: int) -> SaveResponse:
        """Write a generation, which the trainers hold, to `folder`, which they see under the same path.

        The first one writes it, unless it holds a part only: then all of them write what they hold. Errors: TrainError.
        """
        trainers, whole = self.trainers, SaveRequest(path=str(folder), generation=generation)
        if trainers[0].record.is_whole:
            return await self._save(trainers[0], whole)
        await self._save(trainers[0], whole.model_copy(update={"step": SaveStep.PREPARE}))
        part = whole.model_copy(update={"step": SaveStep.WRITE})
        await together([self._save(trainer, part) for trainer in trainers], name="save")
        return await self._save(trainers[0], whole.model_copy(update={"step": SaveStep.COMMIT}))

    async def _save(self, trainer: Trainer, request: SaveRequest) -> SaveResponse:
        return await self._post(trainer, "/v1/save", request, SaveResponse, SAVE_SECONDS)

    async def checkpoint(self, folder: Path, generation: int, step: CheckpointStep) -> int:
        """Have the trainers take a step of writing a checkpoint; return the bytes that were written. Errors:
        TrainError.
        """
        request = CheckpointRequest(path=str(folder), generation=generation, step=step)
        trainers = self.trainers if step in OF_ALL else self.trainers[:1]
        seconds = BEGIN_SECONDS if step is CheckpointStep.BEGIN else SAVE_SECONDS
        work = [self._post(trainer, "/v1/checkpoints", request, SaveResponse, seconds) for trainer in trainers]
        return sum(answer.num_bytes for answer in await together(work, name="checkpoint"))

    async def _post(self, trainer: Trainer, path: str, body: Resource, answer: type[M], seconds: float) -> M:
        content = await asyncio.to_thread(body.model_dump_json)
        headers = {"Content-Type": "application/json"}
        try:
            async with asyncio.timeout(seconds):
                response = await self.client.post(trainer.url(path), content=content, headers=headers)
        except TimeoutError:
            raise TrainError(f"{trainer.pod}/train: {path} took more than {seconds:g} s; look at its log") from None
        except httpx.TransportError as error:
            text = f"{type(error).__name__} {error}".rstrip()
            raise TrainError(f"{trainer.pod}/train: {path} got no answer ({text}); look at its log") from error
        if response.status_code == REFUSED:
            raise Disagreement(f"{trainer.pod}/train: {_detail(response)}")
        if not response.is_success:
            raise TrainError(f"{trainer.pod}/train: {_detail(response)}")
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors()[0]
            raise TrainError(f"{trainer.pod}/train: its answer to {path} cannot be read: {first['msg']}") from error


def _detail(response: httpx.Response) -> str:
    try:
        return ProblemDetails.model_validate_json(response.content).detail
    except ValidationError:
        return f"{response.status_code} {response.text[:400]}"
