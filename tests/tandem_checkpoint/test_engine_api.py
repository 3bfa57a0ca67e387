"""The engine's HTTP API: who may ask, and what each refusal looks like."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from tandem_api.engine import ProblemDetails, SaveRequest, SaveResponse, StepMetrics, TrainRequest, TrainResponse
from tandem_api.registry import MemberState, MemberStatus
from tandem_checkpoint.gpu_token import GpuToken
from tandem_checkpoint.http import build_app
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.switch.train import TrainSide, WrongPhase
from tandem_checkpoint.transfer.exports import Exports
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import job_config, settings_of
from tests.tandem_checkpoint.policies import write_config

HEADERS = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
TRAIN = TrainRequest(epoch=2, generation=0, max_logprob_difference=1e-4, steps=(((),),), samples_per_step=(0,))
TRAINED = TrainResponse(
    max_abs_logprob_difference=1e-7,
    kl=0.5,
    steps=(StepMetrics(loss=-1.0, gradient_norm=2.0),),
    num_tokens=9,
    seconds=0.1,
)


@dataclass(slots=True)
class Member:
    """A member whose state and trainer a test chooses."""

    state: MemberState = MemberState.TRAINING
    error: Exception | None = None
    saved: list[str] = field(default_factory=list)

    def status(self) -> MemberStatus:
        return MemberStatus(incarnation="a", epoch=2, state=self.state)

    async def train(self, request: TrainRequest) -> TrainResponse:
        if self.error is not None:
            raise self.error
        return TRAINED

    async def save(self, request: SaveRequest) -> SaveResponse:
        self.saved.append(request.path)
        return SaveResponse(path=request.path, num_bytes=5)


@pytest.fixture
def member() -> Member:
    return Member()


@pytest.fixture
async def client(member: Member) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app("secret", member.status, member)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://engine", headers=HEADERS
    ) as client:
        yield client


def problem(response: httpx.Response) -> ProblemDetails:
    assert response.headers["content-type"] == "application/problem+json"
    return ProblemDetails.model_validate_json(response.content)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", "secret", "Basic secret", "Bearer secret ", "Bearer ü"]
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/status"), ("POST", "/v1/train"), ("POST", "/v1/save")])
async def test_without_the_jobs_token_nothing_is_answered(
    client: httpx.AsyncClient, method: str, path: str, header: str
) -> None:
    response = await client.request(method, path, headers={b"Authorization": header.encode()})

    assert response.status_code == 401
    assert problem(response) == ProblemDetails(
        title="Unauthorized",
        status=401,
        detail="send the job's token as a bearer token; it is in the Secret of the job",
    )


async def test_a_batch_is_trained_and_its_metrics_come_back(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/train", content=TRAIN.model_dump_json())

    assert response.status_code == 200
    assert TrainResponse.model_validate_json(response.content) == TRAINED


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WrongPhase("the batch is of epoch 2, this trainer is in epoch 3"), 409),
        (CommandRefused("the log-probabilities differ by 0.1 nats"), 422),
        (ChildGone("trainer rank 0 was ended by SIGKILL; out of memory?"), 503),
    ],
)
async def test_what_a_trainer_meets_has_a_status_and_its_cause(
    client: httpx.AsyncClient, member: Member, error: Exception, status: int
) -> None:
    member.error = error

    response = await client.post("/v1/train", content=TRAIN.model_dump_json())

    assert response.status_code == status
    assert problem(response) == ProblemDetails(title=type(error).__name__, status=status, detail=str(error))


async def test_an_unknown_field_is_refused(client: httpx.AsyncClient, member: Member) -> None:
    response = await client.post("/v1/save", json={"path": "/state/policy", "comment": "x"})

    assert response.status_code == 422
    assert problem(response).detail == "body.comment: Extra inputs are not permitted; see /docs for what it takes"
    assert member.saved == []


async def test_the_policy_is_saved_where_the_request_says(client: httpx.AsyncClient, member: Member) -> None:
    response = await client.post("/v1/save", json={"path": "/state/policy"})

    assert response.json() == {"path": "/state/policy", "numBytes": 5}
    assert member.saved == ["/state/policy"]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (MemberState.STARTING, 503),
        (MemberState.FAILED, 503),
        (MemberState.IDLE, 200),
        (MemberState.SWITCHING, 200),
        (MemberState.SERVING, 200),
        (MemberState.TRAINING, 200),
    ],
)
async def test_a_member_is_ready_unless_it_starts_or_has_failed(
    client: httpx.AsyncClient, member: Member, state: MemberState, status: int
) -> None:
    member.state = state

    response = await client.get("/readyz", headers={"Authorization": ""})

    assert (response.status_code, response.json()) == (status, {"state": state})


async def test_a_member_is_alive_as_soon_as_it_answers(client: httpx.AsyncClient, member: Member) -> None:
    member.state = MemberState.STARTING

    response = await client.get("/healthz", headers={"Authorization": ""})

    assert response.status_code == 200


async def test_the_status_is_the_registrys(client: httpx.AsyncClient, member: Member) -> None:
    response = await client.get("/v1/status")

    assert MemberStatus.model_validate_json(response.content) == member.status()


async def test_the_api_describes_itself(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    assert {"/healthz", "/readyz", "/v1/status", "/v1/train", "/v1/save"} == set(document["paths"])
    assert "maxLogprobDifference" in document["components"]["schemas"]["TrainRequest"]["properties"]


async def test_who_exports_gives_others_its_bytes(member: Member, tmp_path: Path) -> None:
    app = build_app("secret", member.status, member, Exports(tmp_path))

    paths = {route.path for route in app.routes if isinstance(route, APIRoute)}

    assert paths >= {"/v1/weights/{generation}", "/v1/weights/{generation}/segment"}


async def test_a_server_has_nothing_to_train(member: Member) -> None:
    app = build_app("secret", member.status, None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine") as client:
        assert (await client.post("/v1/train", content=TRAIN.model_dump_json())).status_code == 404


async def test_a_trainer_that_is_in_no_train_phase_refuses_every_batch(tmp_path: Path) -> None:
    settings = settings_of(job_config(write_config(tmp_path / "policy")), tmp_path)
    side = TrainSide(Surroundings(settings, FakeRegistry(), Mirror(), 1, "a"), GpuToken(tmp_path / "gpu.token"))

    with pytest.raises(WrongPhase, match="the batch is of epoch 2, this trainer is in epoch 0"):
        await side.train(TRAIN)


async def test_a_trainer_without_weights_yet_saves_nothing(tmp_path: Path) -> None:
    settings = settings_of(job_config(write_config(tmp_path / "policy")), tmp_path)
    side = TrainSide(Surroundings(settings, FakeRegistry(), Mirror(), 1, "a"), GpuToken(tmp_path / "gpu.token"))

    with pytest.raises(WrongPhase, match="still starting and holds no weights yet"):
        await side.save(SaveRequest(path=str(tmp_path / "out")))
