"""A member of which a test chooses everything that its API shows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from fastapi import FastAPI

from tandem_api.engine import (
    CheckpointRequest,
    FetchedWeights,
    MemberPhase,
    ProblemDetails,
    PublishedWeights,
    SaveRequest,
    SaveResponse,
    StepMetrics,
    TrainRequest,
    TrainResponse,
    WeightFingerprints,
)
from tandem_api.job.status import Phase
from tandem_api.registry import MemberState, MemberStatus
from tandem_checkpoint.http import build_app
from tandem_checkpoint.transfer.exports import Exports

TOKEN = "secret"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
TRAIN = TrainRequest(epoch=2, generation=0, max_logprob_difference=1e-4, steps=(((),),), samples_per_step=(0,))
TRAINED = TrainResponse(
    max_abs_logprob_difference=1e-7,
    kl=0.5,
    steps=(StepMetrics(loss=-1.0, gradient_norm=2.0),),
    num_tokens=9,
    seconds=0.1,
)
PHASE = MemberPhase(
    epoch=2, phase=Phase.TRAIN, generation=3, state=MemberState.TRAINING, since=1.5, deadline=None, published=3
)
PUBLISHED = PublishedWeights(generation=3, num_shards=1, num_bytes=8, is_complete=True)
FINGERPRINTS = WeightFingerprints(generation=3, boxes=())
FETCHED = FetchedWeights(generation=3, num_bytes=8, sources=("job-hybrid-0",), seconds=0.5)


@dataclass(slots=True)
class ApiMember:
    """Whatever is asked of it raises `error`, where there is one."""

    state: MemberState = MemberState.TRAINING
    error: Exception | None = None
    saved: list[str] = field(default_factory=list)

    def status(self) -> MemberStatus:
        return MemberStatus(incarnation="a", epoch=2, state=self.state)

    def phase(self) -> MemberPhase:
        return PHASE

    def metrics(self) -> bytes:
        return b"tandem_up 1.0\n"

    async def train(self, request: TrainRequest) -> TrainResponse:
        self._fail()
        return TRAINED

    async def save(self, request: SaveRequest) -> SaveResponse:
        self._fail()
        self.saved.append(request.path)
        return SaveResponse(path=request.path, num_bytes=5)

    async def checkpoint(self, request: CheckpointRequest) -> SaveResponse:
        self._fail()
        self.saved.append(f"{request.step} {request.path}")
        return SaveResponse(path=request.path, num_bytes=5)

    async def publish(self, generation: int) -> PublishedWeights:
        self._fail()
        return PUBLISHED

    async def fingerprints(self, generation: int) -> WeightFingerprints:
        self._fail()
        return FINGERPRINTS

    async def fetch(self, generation: int) -> FetchedWeights:
        self._fail()
        return FETCHED

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


def app_of(member: ApiMember, exports: Exports | None = None, *, token: str = TOKEN, address: str = "") -> FastAPI:
    """Return the API of a member that offers everything."""
    return build_app(
        token,
        member.status,
        member,
        exports,
        address=address,
        phase=member,
        publisher=member,
        fetcher=member,
        metrics=member.metrics,
    )


@asynccontextmanager
async def asking(app: FastAPI, *, authorized: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """Ask an app without a network; what it raises is an answer too, as behind a real server."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = HEADERS if authorized else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers) as client:
        yield client


def problem(response: httpx.Response) -> ProblemDetails:
    assert response.headers["content-type"] == "application/problem+json"
    return ProblemDetails.model_validate_json(response.content)
