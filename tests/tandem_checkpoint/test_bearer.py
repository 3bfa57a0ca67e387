"""The guard of vLLM's servers: what vLLM itself leaves open is closed."""

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from tandem_checkpoint.bearer import ServerGuard
from tests.tandem_checkpoint.api_member import TOKEN, problem


async def server(scope: Scope, receive: Receive, send: Send) -> None:
    """A server that answers everybody."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"sure"})


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("VLLM_API_KEY", TOKEN)
    async with asking(ServerGuard(server)) as client:
        yield client


def asking(guard: ServerGuard) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://server")


@pytest.mark.parametrize("path", ["/v1/completions", "/pause", "/update_weights", "/invocations", "/metrics", "/ping"])
async def test_without_the_token_nothing_is_answered(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path)

    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert problem(response).type == "urn:tandem:problem:unauthorized"


@pytest.mark.parametrize("path", ["/v1/completions", "/pause", "/metrics"])
async def test_with_the_token_the_server_answers(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, headers={"Authorization": f"Bearer {TOKEN}"})

    assert response.content == b"sure"


async def test_an_options_request_is_a_request_too(client: httpx.AsyncClient) -> None:
    response = await client.options("/v1/completions")

    assert response.status_code == 401


async def test_health_needs_no_token(client: httpx.AsyncClient) -> None:
    response = await client.get("/health")

    assert response.content == b"sure"


async def test_a_server_without_a_token_answers_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "")

    async with asking(ServerGuard(server)) as client:
        response = await client.get("/v1/models", headers={"Authorization": "Bearer "})

    assert response.status_code == 401


async def test_a_websocket_is_closed_before_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", TOKEN)
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {}

    await ServerGuard(server)({"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1008}]
