"""The engine's HTTP API. Everything but the health checks wants the job's bearer token."""  # noqa: A005 - always imported by its full name

import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Protocol

import uvicorn
from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

from tandem_api.engine import HeldWeights, ProblemDetails, SaveRequest, SaveResponse, TrainRequest, TrainResponse
from tandem_api.registry import MemberState, MemberStatus
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.switch.train import WrongPhase
from tandem_checkpoint.transfer.byte_range import BadRange, parse_range
from tandem_checkpoint.transfer.exports import Exports, NotHeld, chunks

STATUS_OF = {
    NotHeld: 404,
    WrongPhase: 409,
    BadRange: 416,
    CommandRefused: 422,
    RequestValidationError: 422,
    ChildGone: 503,
}
"""HTTP status of each error that a request can meet."""


class Unauthorized(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The request has no token, or another job's."""


class Trainer(Protocol):
    """What a trainer's API needs of its side."""

    async def train(self, request: TrainRequest) -> TrainResponse: ...

    async def save(self, request: SaveRequest) -> SaveResponse: ...


def build_app(
    token: str, status: Callable[[], MemberStatus], trainer: Trainer | None, exports: Exports | None = None
) -> FastAPI:
    """Return the API of one member; a trainer also trains and saves, and who exports gives others its bytes."""
    app = FastAPI(title="tandem-engine", version="1")
    for error in (*STATUS_OF, Unauthorized):
        app.add_exception_handler(error, _problem)

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """Alive: the event loop answers."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Ready: registered and started."""
        state = status().state
        usable = state not in (MemberState.STARTING, MemberState.FAILED)
        return JSONResponse({"state": state}, status_code=200 if usable else 503)

    guard = [Depends(_bearer(token))]

    @app.get("/v1/status", dependencies=guard)
    async def member_status() -> MemberStatus:
        """What this member last reported to the registry."""
        return status()

    if trainer is not None:
        _add_trainer(app, guard, trainer)
    if exports is not None:
        _add_exports(app, guard, exports)
    return app


def _add_trainer(app: FastAPI, guard: list[object], trainer: Trainer) -> None:
    @app.post("/v1/train", dependencies=guard)  # type: ignore[arg-type]
    async def train(request: TrainRequest) -> TrainResponse:
        """Train one batch. 409: another epoch. 422: trainer and server disagree about the weights."""
        return await trainer.train(request)

    @app.post("/v1/save", dependencies=guard)  # type: ignore[arg-type]
    async def save(request: SaveRequest) -> SaveResponse:
        """Write the current weights as a Hugging Face folder."""
        return await trainer.save(request)


def _add_exports(app: FastAPI, guard: list[object], exports: Exports) -> None:
    @app.get("/v1/weights/{generation}", dependencies=guard)  # type: ignore[arg-type]
    async def weights(generation: int) -> HeldWeights:
        """The shards of this pod. 404: the generation is not, or no longer, in its segments."""
        return exports.get(generation).weights

    @app.get("/v1/weights/{generation}/segment", dependencies=guard)  # type: ignore[arg-type]
    async def segment(generation: int, byte_range: Annotated[str, Header(alias="range")] = "") -> StreamingResponse:
        """The bytes of the segment: those of the Range header (206), else all.

        404 as above; 416: no such range. A segment may be overwritten while it is read: compare the checksums.
        """
        held = exports.get(generation)
        total = held.weights.segment_bytes
        wanted = parse_range(byte_range, total)
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(wanted.num_bytes)}
        if byte_range:
            headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{total}"
        return StreamingResponse(
            chunks(held.path, wanted.start, wanted.stop),
            status_code=206 if byte_range else 200,
            media_type="application/octet-stream",
            headers=headers,
        )


def _bearer(token: str) -> Callable[[str], Awaitable[None]]:
    async def check(authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise Unauthorized("send the job's token as a bearer token; it is in the Secret of the job")

    return check


async def _problem(_: Request, error: Exception) -> JSONResponse:
    """Answer with a structured error (RFC 9457)."""
    status = STATUS_OF.get(type(error), 401)
    detail = _first_problem(error) if isinstance(error, RequestValidationError) else str(error)
    details = ProblemDetails(title=type(error).__name__, status=status, detail=detail)
    return JSONResponse(details.model_dump(mode="json"), status_code=status, media_type="application/problem+json")


def _first_problem(error: RequestValidationError) -> str:
    """Return what is wrong with a request's body, without the body: a batch is long."""
    first = error.errors()[0]
    return f"{'.'.join(str(step) for step in first['loc'])}: {first['msg']}; see /docs for what it takes"


class QuietServer(uvicorn.Server):
    """uvicorn without signal handlers: the engine handles its signals itself."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: FastAPI, host: str, port: int) -> None:
    """Answer requests until cancelled."""
    server = QuietServer(
        uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, lifespan="off")
    )
    await server.serve()
