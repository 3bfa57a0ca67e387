"""Who may ask an engine, and that nothing listens to everybody outside loopback."""

import asyncio
from pathlib import Path

import pytest
from fastapi import FastAPI

from tandem_api.engine import ProblemDetails
from tandem_checkpoint.http import build_app, serve
from tandem_checkpoint.settings import SettingsError
from tandem_checkpoint.transfer.exports import Exports
from tests.tandem_checkpoint.api_member import TOKEN, ApiMember, app_of, asking, problem

GUARDED = [
    ("GET", "/v1/status"),
    ("GET", "/v1/phase"),
    ("GET", "/v1/weights"),
    ("GET", "/v1/weights/3"),
    ("GET", "/v1/weights/3/segment"),
    ("POST", "/v1/weights/3/publish"),
    ("POST", "/v1/weights/3/fetch"),
    ("POST", "/v1/weights/3/verify"),
    ("POST", "/v1/train"),
    ("POST", "/v1/save"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/nothing"),
    ("GET", "/healthz/"),
    ("GET", "//healthz"),
]
POD = "10.1.0.7"


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """The API of a pod that others reach."""
    return app_of(ApiMember(), Exports(tmp_path), address=POD)


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_without_the_token_nothing_is_answered(app: FastAPI, method: str, path: str) -> None:
    async with asking(app, authorized=False) as client:
        response = await client.request(method, path)

    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert problem(response) == ProblemDetails(
        type="urn:tandem:problem:unauthorized",
        title="The job's token is missing or wrong",
        status=401,
        detail="send the job's token as a bearer token; it is in the Secret of the job",
    )


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", "secret", "Basic secret", "Bearer secret ", "Bearer ü"]
)
async def test_another_token_is_none(app: FastAPI, header: str) -> None:
    async with asking(app, authorized=False) as client:
        response = await client.get("/v1/status", headers={b"Authorization": header.encode()})

    assert response.status_code == 401


async def test_two_tokens_are_none(app: FastAPI) -> None:
    async with asking(app, authorized=False) as client:
        token = ("Authorization", f"Bearer {TOKEN}")
        response = await client.get("/v1/status", headers=[token, ("Authorization", "Bearer other")])

    assert response.status_code == 401


async def test_the_schemes_name_may_be_written_in_any_case(app: FastAPI) -> None:
    async with asking(app, authorized=False) as client:
        response = await client.get("/v1/status", headers={"Authorization": f"bearer {TOKEN}"})

    assert response.status_code == 200


async def test_a_request_is_refused_before_its_body_is_read(app: FastAPI) -> None:
    async with asking(app, authorized=False) as client:
        response = await client.post("/v1/train", content=b"{")

    assert response.status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_kubelet_needs_no_token(app: FastAPI, path: str) -> None:
    async with asking(app, authorized=False) as client:
        response = await client.get(path)

    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/redoc"])
@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 200), ("127.94.0.3", 200), ("::1", 200), (POD, 401)])
async def test_what_describes_the_api_is_open_on_loopback_only(path: str, address: str, status: int) -> None:
    async with asking(app_of(ApiMember(), address=address), authorized=False) as client:
        response = await client.get(path)

    assert response.status_code == status


async def test_with_the_token_the_api_describes_itself_anywhere(app: FastAPI) -> None:
    async with asking(app) as client:
        response = await client.get("/openapi.json")

    assert response.json()["info"]["title"] == "tandem-engine"


@pytest.mark.parametrize("address", [POD, "0.0.0.0", "::", "localhost", ""])
def test_no_api_without_a_token_is_made_for_others(address: str) -> None:
    with pytest.raises(SettingsError, match=r"TANDEM_TOKEN_FILE: holds no token, .*; mount the job's Secret there"):
        build_app("", ApiMember().status, None, address=address)


async def test_on_loopback_there_may_be_no_token() -> None:
    async with asking(app_of(ApiMember(), token="", address="127.0.0.1"), authorized=False) as client:
        response = await client.get("/v1/status")

    assert response.status_code == 200


async def test_an_api_without_a_token_does_not_listen_to_others() -> None:
    app = app_of(ApiMember(), token="", address="127.0.0.1")

    with pytest.raises(SettingsError, match=r"TANDEM_TOKEN_FILE: holds no token, but others reach 0\.0\.0\.0"):
        async with asyncio.timeout(10):
            await serve(app, "0.0.0.0", 0)
