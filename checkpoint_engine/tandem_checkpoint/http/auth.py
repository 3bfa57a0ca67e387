"""Who may ask: everything is closed to those without the job's token, but for a few open paths."""

from collections.abc import Set

from starlette.types import ASGIApp, Receive, Scope, Send

from tandem_checkpoint.bearer import refuse, shows_token

HEALTH = frozenset({"/healthz", "/readyz"})
"""Paths that a kubelet asks for; it has no token."""
DOCUMENTS = frozenset({"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""Paths about the API itself: open on loopback only."""


class BearerGuard:
    """Middleware in front of everything, before a request's body is read: a new route is closed by itself."""

    def __init__(self, app: ASGIApp, token: str, open_paths: Set[str]) -> None:
        self._app = app
        self._token = token.encode()
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] != "http" or scope["path"] in self._open_paths
        if is_open or shows_token(scope, self._token):
            await self._app(scope, receive, send)
        else:
            await refuse(send)
