"""The engine's HTTP API: what it answers, and what each refusal looks like."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tandem_api.engine import (
    FetchedWeights,
    FieldProblem,
    MemberPhase,
    ProblemDetails,
    PublishedWeights,
    SaveRequest,
    TrainResponse,
    WeightFingerprints,
)
from tandem_api.registry import MemberState, MemberStatus
from tandem_checkpoint.gpu_token import GpuToken
from tandem_checkpoint.http import build_app
from tandem_checkpoint.http.capabilities import Conflict
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.registry.errors import Fenced, LeaseLost, RegistryUnreachable
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.segments.store import SegmentError
from tandem_checkpoint.switch.checkpointing import NotSaved
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.switch.train import TrainSide, WrongPhase
from tandem_checkpoint.transfer.exports import Exports
from tandem_checkpoint.transfer.fetch import FetchFailed
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.api_member import (
    FETCHED,
    FINGERPRINTS,
    PHASE,
    PUBLISHED,
    TOKEN,
    TRAIN,
    TRAINED,
    ApiMember,
    app_of,
    asking,
    problem,
)
from tests.tandem_checkpoint.jobs import job_config, settings_of
from tests.tandem_checkpoint.policies import write_config

STEP = '{"path": "/x", "generation": 3, "step": "Begin"}'


@pytest.fixture
def member() -> ApiMember:
    return ApiMember()


@pytest.fixture
async def client(member: ApiMember, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(app_of(member, Exports(tmp_path))) as client:
        yield client


@pytest.fixture
async def bare(member: ApiMember) -> AsyncIterator[httpx.AsyncClient]:
    """A member that offers nothing but its status."""
    async with asking(build_app(TOKEN, member.status, None)) as client:
        yield client


async def test_the_status_is_the_registrys(client: httpx.AsyncClient, member: ApiMember) -> None:
    response = await client.get("/v1/status")

    assert MemberStatus.model_validate_json(response.content) == member.status()


async def test_the_phase_says_since_when_and_until_when(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/phase")

    assert MemberPhase.model_validate_json(response.content) == PHASE


async def test_metrics_are_in_prometheus_text_format(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")

    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.content == b"tandem_up 1.0\n"


async def test_a_batch_is_trained_and_its_metrics_come_back(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/train", content=TRAIN.model_dump_json())

    assert response.status_code == 200
    assert TrainResponse.model_validate_json(response.content) == TRAINED


async def test_the_policy_is_saved_where_the_request_says(client: httpx.AsyncClient, member: ApiMember) -> None:
    response = await client.post("/v1/save", json={"path": "/state/policy"})

    assert response.json() == {"path": "/state/policy", "numBytes": 5}
    assert member.saved == ["/state/policy"]


async def test_a_checkpoint_is_made_in_steps(client: httpx.AsyncClient, member: ApiMember) -> None:
    response = await client.post("/v1/checkpoints", json={"path": "/state/c", "generation": 3, "step": "Write"})

    assert response.json() == {"path": "/state/c", "numBytes": 5}
    assert member.saved == ["Write /state/c"]


async def test_a_trainer_registers_a_generation_again(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/weights/3/publish")

    assert PublishedWeights.model_validate_json(response.content) == PUBLISHED


async def test_a_trainer_tells_the_fingerprints_of_what_its_ranks_hold(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/weights/3/fingerprints")

    assert WeightFingerprints.model_validate_json(response.content) == FINGERPRINTS


async def test_a_rollout_only_pod_fetches_ahead_of_time(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/weights/3/fetch")

    assert FetchedWeights.model_validate_json(response.content) == FETCHED


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
    client: httpx.AsyncClient, member: ApiMember, state: MemberState, status: int
) -> None:
    member.state = state

    response = await client.get("/readyz")

    assert (response.status_code, response.json()) == (status, {"state": state})


async def test_a_member_is_alive_as_soon_as_it_answers(client: httpx.AsyncClient, member: ApiMember) -> None:
    member.state = MemberState.FAILED

    response = await client.get("/healthz")

    assert (response.status_code, response.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (WrongPhase("the batch is of epoch 2, this trainer is in epoch 3"), 409, "wrong-phase"),
        (Conflict("generation 3 is bound"), 409, "conflict"),
        (Fenced("somebody newer"), 409, "fenced"),
        (CommandRefused("the log-probabilities differ by 0.1 nats"), 422, "refused"),
        (FetchFailed("generation 3 could not be fetched"), 502, "fetch-failed"),
        (ChildGone("trainer rank 0 was ended by SIGKILL; out of memory?"), 503, "process-ended"),
        (RegistryUnreachable("etcd: no answer"), 503, "registry"),
        (LeaseLost("the lease has expired"), 503, "registry"),
        (TimeoutError("took more than 60 s"), 504, "deadline"),
        (NotSaved("/state/checkpoints/generation-000004: cannot be written"), 507, "not-saved"),
        (SegmentError("/shm has no room"), 507, "no-segment"),
    ],
)
async def test_what_a_member_meets_has_a_status_a_kind_and_its_cause(
    client: httpx.AsyncClient, member: ApiMember, error: Exception, status: int, name: str
) -> None:
    member.error = error

    response = await client.post("/v1/weights/3/publish")

    met = problem(response)
    assert (response.status_code, met.status) == (status, status)
    assert (met.type, met.detail) == (f"urn:tandem:problem:{name}", str(error))


async def test_every_problem_of_a_kind_has_the_same_title(client: httpx.AsyncClient, member: ApiMember) -> None:
    member.error = WrongPhase("the batch is of epoch 2, this trainer is in epoch 3")

    response = await client.post("/v1/train", content=TRAIN.model_dump_json())

    assert response.json() == {
        "type": "urn:tandem:problem:wrong-phase",
        "title": "The member is in another phase",
        "status": 409,
        "detail": "the batch is of epoch 2, this trainer is in epoch 3",
    }


async def test_an_unknown_field_is_refused_with_its_place(client: httpx.AsyncClient, member: ApiMember) -> None:
    response = await client.post("/v1/save", json={"path": "/state/policy", "a/b": "x"})

    met = problem(response)
    assert (response.status_code, met.type) == (422, "urn:tandem:problem:invalid-request")
    assert met.detail == "body.a/b: Extra inputs are not permitted; see /docs for what it takes"
    assert met.errors == (FieldProblem(pointer="#/a~1b", detail="Extra inputs are not permitted"),)
    assert member.saved == []


async def test_of_many_mistakes_the_first_ones_are_named(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/save", json={f"extra{number}": 1 for number in range(30)})

    assert len(problem(response).errors) == 8


@pytest.mark.parametrize("path", ["/v1/weights/-1", "/v1/weights/new", "/v1/weights/new/verify"])
async def test_what_is_no_generation_is_refused(client: httpx.AsyncClient, path: str) -> None:
    response = await client.request("POST" if path.endswith("verify") else "GET", path)

    met = problem(response)
    assert (response.status_code, met.errors[0].pointer) == (422, "path/generation")


async def test_what_cannot_be_parsed_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/save", content=b"{")

    assert (response.status_code, problem(response).type) == (422, "urn:tandem:problem:invalid-request")


async def test_an_unknown_path_is_a_problem_too(client: httpx.AsyncClient) -> None:
    response = await client.get("/v2/status")

    assert response.status_code == 404
    assert problem(response) == ProblemDetails(
        title="Not Found", status=404, detail="GET /v2/status: see /openapi.json for what there is"
    )
    assert "type" not in response.json()


async def test_an_unknown_method_is_a_problem_that_names_the_known_ones(client: httpx.AsyncClient) -> None:
    response = await client.delete("/v1/status")

    assert (response.status_code, response.headers["allow"]) == (405, "GET")
    assert problem(response).title == "Method Not Allowed"


async def test_a_bug_is_a_problem_without_its_cause(client: httpx.AsyncClient, member: ApiMember) -> None:
    member.error = RuntimeError("the secret of the bug")

    response = await client.post("/v1/save", json={"path": "/state/policy"})

    assert response.status_code == 500
    assert problem(response).title == "Internal Server Error"
    assert "secret" not in response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "who"),
    [
        ("POST", "/v1/train", "ask port 8701 of a hybrid pod"),
        ("POST", "/v1/save", "ask port 8701 of a hybrid pod"),
        ("POST", "/v1/checkpoints", "ask port 8701 of a hybrid pod"),
        ("GET", "/v1/weights", "ask port 8701 of a hybrid pod"),
        ("GET", "/v1/weights/3", "ask port 8701 of a hybrid pod"),
        ("GET", "/v1/weights/3/segment", "ask port 8701 of a hybrid pod"),
        ("POST", "/v1/weights/3/verify", "ask port 8701 of a hybrid pod"),
        ("POST", "/v1/weights/3/publish", "ask port 8701 of a hybrid pod"),
        ("POST", "/v1/weights/3/fetch", "ask a rollout-only pod"),
        ("GET", "/v1/weights/3/fingerprints", "ask port 8701 of a hybrid pod"),
        ("GET", "/v1/phase", "ask another one"),
        ("GET", "/metrics", "keeps no metrics"),
    ],
)
async def test_what_a_member_does_not_do_says_who_does(
    bare: httpx.AsyncClient, method: str, path: str, who: str
) -> None:
    body = {"/v1/train": TRAIN.model_dump_json(), "/v1/save": '{"path": "/x"}', "/v1/checkpoints": STEP}.get(path)

    response = await bare.request(method, path, content=body)

    assert (response.status_code, problem(response).type) == (404, "urn:tandem:problem:not-offered")
    assert who in problem(response).detail


async def document_of(client: httpx.AsyncClient) -> dict[str, Any]:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return document


async def test_the_document_names_every_route(bare: httpx.AsyncClient) -> None:
    document = await document_of(bare)

    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert routes == {
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /v1/status",
        "GET /v1/phase",
        "GET /v1/weights",
        "GET /v1/weights/{generation}",
        "GET /v1/weights/{generation}/address",
        "GET /v1/weights/{generation}/segment",
        "POST /v1/weights/{generation}/publish",
        "GET /v1/weights/{generation}/fingerprints",
        "POST /v1/weights/{generation}/fetch",
        "POST /v1/weights/{generation}/runs",
        "POST /v1/weights/{generation}/verify",
        "POST /v1/train",
        "POST /v1/save",
        "POST /v1/checkpoints",
    }
    assert "maxLogprobDifference" in document["components"]["schemas"]["TrainRequest"]["properties"]


async def test_every_route_is_explained_and_every_error_of_it_is_a_problem(client: httpx.AsyncClient) -> None:
    document = await document_of(client)

    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    errors = {
        media
        for operation in operations
        for status, response in operation["responses"].items()
        if int(status) >= 400 and "healt" not in operation["tags"][0]
        for media in response["content"]
    }
    assert all(operation["description"] for operation in operations)
    assert errors == {"application/problem+json"}
    assert document["components"]["schemas"]["ProblemDetails"]["properties"]["detail"]["description"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


async def test_only_health_is_described_as_open(client: httpx.AsyncClient) -> None:
    document = await document_of(client)

    is_open = {
        path for path, methods in document["paths"].items() for item in methods.values() if "security" not in item
    }
    assert is_open == {"/healthz", "/readyz"}


async def test_a_trainer_that_is_in_no_train_phase_refuses_every_batch(tmp_path: Path) -> None:
    settings = settings_of(job_config(write_config(tmp_path / "policy")), tmp_path)
    side = TrainSide(Surroundings(settings, FakeRegistry(), Mirror(), 1, "a"), GpuToken(tmp_path / "gpu.token"))

    with pytest.raises(WrongPhase, match="the batch is of epoch 2, this trainer is in epoch 0"):
        await side.train(TRAIN)


async def test_a_trainer_without_weights_yet_saves_nothing(tmp_path: Path) -> None:
    settings = settings_of(job_config(write_config(tmp_path / "policy")), tmp_path)
    side = TrainSide(Surroundings(settings, FakeRegistry(), Mirror(), 1, "a"), GpuToken(tmp_path / "gpu.token"))

    with pytest.raises(WrongPhase, match="holds no complete weights now"):
        await side.save(SaveRequest(path=str(tmp_path / "out")))
