"""Structured errors (RFC 9457): one answer for each thing that can go wrong, and never a stack trace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tandem_api.engine import FieldProblem, ProblemDetails
from tandem_checkpoint.http.capabilities import Conflict, NotOffered
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.registry.errors import Fenced, RegistryError
from tandem_checkpoint.segments.manifest import BrokenSegment
from tandem_checkpoint.segments.store import SegmentError
from tandem_checkpoint.switch.checkpointing import NotSaved
from tandem_checkpoint.switch.side import GenerationLost
from tandem_checkpoint.switch.train import WrongPhase
from tandem_checkpoint.transfer.byte_range import BadRange
from tandem_checkpoint.transfer.exports import AllStreamsTaken, NotHeld
from tandem_checkpoint.transfer.fetch import FetchFailed

Responses = dict[int | str, dict[str, Any]]
"""What a route answers, by status, as FastAPI takes it for the OpenAPI document."""
MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 8
"""Mistakes that an answer names; a batch may have thousands."""
FIXES = {
    404: "see /openapi.json for what there is",
    405: "see /openapi.json for how to ask",
    500: "this is a mistake of ours; the engine's log has the cause",
}
"""What to do about a plain status."""


class Unauthorized(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The request has no token, or another job's: tandem_checkpoint.bearer answers it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem."""

    status: int
    name: str
    title: str

    @property
    def type(self) -> str:
        return f"urn:tandem:problem:{self.name}"


KINDS: Mapping[type[Exception], Kind] = {
    Unauthorized: Kind(401, "unauthorized", "The job's token is missing or wrong"),
    NotHeld: Kind(404, "not-held", "The generation is not in this pod's segments"),
    NotOffered: Kind(404, "not-offered", "This member does not do that"),
    WrongPhase: Kind(409, "wrong-phase", "The member is in another phase"),
    Conflict: Kind(409, "conflict", "The member cannot do that now"),
    GenerationLost: Kind(409, "generation-lost", "The weights that were asked for are nowhere any more"),
    Fenced: Kind(409, "fenced", "Somebody newer has taken over"),
    BadRange: Kind(416, "bad-range", "There is no such range of bytes"),
    CommandRefused: Kind(422, "refused", "The trainer refuses the request"),
    RequestValidationError: Kind(422, "invalid-request", "The request cannot be read"),
    BrokenSegment: Kind(500, "broken-segment", "The bytes are not those that were registered"),
    FetchFailed: Kind(502, "fetch-failed", "No pod has given the bytes"),
    AllStreamsTaken: Kind(503, "streams-taken", "As many others as may are reading"),
    ChildGone: Kind(503, "process-ended", "A process of this member has ended"),
    RegistryError: Kind(503, "registry", "The registry cannot be used now"),
    TimeoutError: Kind(504, "deadline", "It took too long"),
    NotSaved: Kind(507, "not-saved", "The checkpoint cannot be written"),
    SegmentError: Kind(507, "no-segment", "The pod's shared volume has no place for the weights"),
}
"""What each error of ours means to a caller; a subclass means what its base does."""


def kind_of(error: type[BaseException]) -> Kind:
    """Return the kind of an error's class, which is in the table or derived from one that is."""
    return next(KINDS[each] for each in error.__mro__ if each in KINDS)


def install_handlers(app: FastAPI) -> None:
    """Have every error answered with a problem: ours, those of the framework, and bugs."""
    for error in KINDS:
        app.add_exception_handler(error, _known)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, _bug)


def _answer(error: Exception) -> JSONResponse:
    """Return the answer to an error of the table."""
    kind = kind_of(type(error))
    is_unreadable = isinstance(error, RequestValidationError)
    problem = ProblemDetails(
        type=kind.type,
        title=kind.title,
        status=kind.status,
        detail=_first_mistake(error) if is_unreadable else str(error) or kind.title,
        errors=_mistakes(error) if is_unreadable else (),
    )
    return _response(problem, {})


def refusals(*errors: type[Exception]) -> Responses:
    """Return the `responses` of a route that meets these errors, for the OpenAPI document."""
    by_status: dict[int, list[Kind]] = {}
    for error in errors:
        by_status.setdefault(kind_of(error).status, []).append(kind_of(error))
    return {status: _described(kinds) for status, kinds in sorted(by_status.items())}


def _described(kinds: Sequence[Kind]) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    text = "; ".join(f"{kind.title} (`{kind.type}`)" for kind in kinds)
    return {"description": f"{text}.", "content": {MEDIA_TYPE: {"schema": schema}}}


async def _known(_: Request, error: Exception) -> JSONResponse:
    return _answer(error)


async def _framework(request: Request, error: Exception) -> JSONResponse:
    """Answer an unknown path or method; the status says what it is (type about:blank)."""
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {FIXES.get(error.status_code, error.detail)}"
    return _response(_plain(error.status_code, detail), error.headers or {})


async def _bug(_: Request, __: Exception) -> JSONResponse:
    """Answer a bug of ours; the exception itself goes on into the log."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return _response(_plain(status, FIXES[status]), {})


def _plain(status: int, detail: str) -> ProblemDetails:
    return ProblemDetails(title=HTTPStatus(status).phrase, status=status, detail=detail)


def _response(problem: ProblemDetails, headers: Mapping[str, str]) -> JSONResponse:
    content = problem.model_dump(mode="json", exclude_defaults=True)
    return JSONResponse(content, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)


def _first_mistake(error: Exception) -> str:
    """Return the first mistake in a request, without its content: a batch is long."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return f"{'.'.join(str(step) for step in first['loc'])}: {first['msg']}; see /docs for what it takes"


def _mistakes(error: Exception) -> tuple[FieldProblem, ...]:
    assert isinstance(error, RequestValidationError)
    return tuple(
        FieldProblem(pointer=_pointer(item["loc"]), detail=item["msg"]) for item in error.errors()[:MOST_ERRORS]
    )


def _pointer(place: Sequence[str | int]) -> str:
    """Return a JSON Pointer into the body, or the place and name of a parameter."""
    first, *rest = (str(step).replace("~", "~0").replace("/", "~1") for step in place)
    return "/".join(["#" if first == "body" else first, *rest])
