"""Bearer tokens of requests, and a guard that lets nobody past without the job's."""

import json
import os
import secrets
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

SERVER_TOKEN = "VLLM_API_KEY"
"""Variable with the token of the servers; vLLM itself asks for it below /v1 only."""
SERVER_HEALTH = "/health"
REFUSAL = {
    "type": "urn:tandem:problem:unauthorized",
    "title": "The job's token is missing or wrong",
    "status": 401,
    "detail": "send the job's token as a bearer token; it is in the Secret of the job",
}
"""Problem details (RFC 9457) of a request without the token."""


def shows_token(scope: Scope, token: bytes) -> bool:
    """Tell, in constant time, whether a request's one Authorization header is `Bearer <token>`."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, shown = (given[0] if len(given) == 1 else b"").partition(b" ")
    return scheme.lower() == b"bearer" and bool(token) and secrets.compare_digest(shown, token)


async def refuse(send: Send) -> None:
    """Answer 401 without reading the request's body."""
    body = json.dumps(REFUSAL).encode()
    headers: Sequence[tuple[bytes, bytes]] = (
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    )
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class ServerGuard:
    """Middleware of vLLM's servers (`--middleware tandem_checkpoint.bearer.ServerGuard`).

    vLLM leaves much open: pausing, updating weights, /invocations. Here only its health is, which tells nothing else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._token = os.environ.get(SERVER_TOKEN, "").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_let_in(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refuse(send)

    def _is_let_in(self, scope: Scope) -> bool:
        if scope["type"] == "lifespan":
            return True
        is_health = scope["type"] == "http" and scope["path"] == SERVER_HEALTH
        return is_health or shows_token(scope, self._token)
