"""The app of one member: routes, errors, the guard in front of them, and the document that describes them."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer

from tandem_api.engine import ProblemDetails
from tandem_api.registry import MemberStatus
from tandem_checkpoint.http.auth import DOCUMENTS, HEALTH, BearerGuard
from tandem_checkpoint.http.capabilities import (
    Capabilities,
    Fetcher,
    Lender,
    PhaseTeller,
    Publisher,
    Trainer,
    WeightStore,
)
from tandem_checkpoint.http.problems import Unauthorized, install_handlers, refusals
from tandem_checkpoint.http.routes import health, metrics, status, training, weights
from tandem_checkpoint.settings import is_loopback, require_token

DESCRIPTION = """\
The engine of one container of a Tandem job: a trainer's or a server's. Both have the same routes; what a member does
not do answers 404 with type `urn:tandem:problem:not-offered` and says who does it.

Errors are problem details (RFC 9457). Everything but `/healthz` and `/readyz` wants the job's bearer token."""


class EngineApi(FastAPI):
    """FastAPI whose document names the one schema of all errors."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            schema = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
            document["components"]["schemas"] |= schema.pop("$defs", {}) | {"ProblemDetails": schema}
        return super().openapi()


def build_app(
    token: str,
    status: Callable[[], MemberStatus],
    trainer: Trainer | None,
    weights: WeightStore | None = None,
    *,
    address: str = "",
    phase: PhaseTeller | None = None,
    publisher: Publisher | None = None,
    fetcher: Fetcher | None = None,
    metrics: Callable[[], bytes] | None = None,
    lender: Lender | None = None,
) -> FastAPI:
    """Return the API of one member that will listen on `address`; what is None answers 404.

    Without a token nothing asks for one, which SettingsError allows on loopback only.
    """
    require_token(address, token)
    offered = Capabilities(status, trainer, weights, phase, publisher, fetcher, metrics, lender)
    app = EngineApi(title="tandem-engine", version="1", description=DESCRIPTION)
    install_handlers(app)
    _add_routes(app, offered)
    if token:
        open_paths = HEALTH | DOCUMENTS if is_loopback(address) else HEALTH
        app.add_middleware(BearerGuard, token=token, open_paths=open_paths)
    app.state.token = token
    return app


def _add_routes(app: FastAPI, offered: Capabilities) -> None:
    """Add all routes; that the document says who may ask is all that Security does here: the guard asks."""
    app.include_router(health.routes(offered))
    bearer = Security(HTTPBearer(description="The job's token, from its Secret.", auto_error=False))
    for routes in (status.routes, weights.routes, training.routes, metrics.routes):
        app.include_router(routes(offered), dependencies=[bearer], responses=refusals(Unauthorized))
