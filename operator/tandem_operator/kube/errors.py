"""What the API server refuses, as types; and what it never answered."""

from collections.abc import Mapping

import orjson

from tandem_operator.kube.manifest import Manifest, number, section, sections, text


class ApiError(Exception):
    """A request that came to nothing: `METHOD path: message (reason)`."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        causes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{message} ({status} {reason})")
        self.status = status
        """HTTP status; 0 where no answer came."""
        self.reason = reason
        """Machine-readable word of the API server, as `AlreadyExists`."""
        self.message = message
        """What the API server said, in one line."""
        self.retry_after_seconds = retry_after_seconds
        """How long the server asks to wait; None where it does not say."""
        self.causes = causes
        """`field: message` of each field that is wrong, or what else the server gives as a cause."""

    @property
    def is_namespace_terminating(self) -> bool:
        """Return whether it was refused because its namespace is being deleted: nothing new can come there."""
        return any(cause.startswith(_TERMINATING) for cause in self.causes)


class UnreachableError(ApiError):
    """No answer: refused, reset, or later than the deadline. The request may have been carried out."""


class StaleError(UnreachableError):
    """A watch on which nothing came for longer than it may be silent."""


class UnauthorizedError(ApiError):
    """The credentials are not accepted."""


class ForbiddenError(ApiError):
    """The credentials are accepted, the verb is not; also a create in a namespace that is being deleted."""


class NotFoundError(ApiError):
    """The object, its namespace or the whole kind is not there."""


class AlreadyExistsError(ApiError):
    """An object of this name is there already."""


class ConflictError(ApiError):
    """The object is not at the resourceVersion, or has not the uid, that the request named."""


class NameTakenError(ApiError):
    """An object of this name exists and belongs to somebody else."""


class GoneError(ApiError):
    """The resourceVersion or the continue token is too old: list again."""


class InvalidError(ApiError):
    """The object is against its schema or a rule."""


class TooManyRequestsError(ApiError):
    """The API server asks for fewer requests; or, on an eviction, a budget forbids it now."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
    429: TooManyRequestsError,
}
_TERMINATING = "NamespaceTerminating"
_RETRIABLE = frozenset({429, 500, 502, 503, 504})


def is_transient(error: ApiError) -> bool:
    """Return whether the same request may succeed a little later."""
    return isinstance(error, UnreachableError) or error.status in _RETRIABLE


def error_of(status: Manifest, *, http_status: int, request: str, retry_after_seconds: float | None = None) -> ApiError:
    """Return the error that a `Status` object tells of; `request` says what was asked, as `GET /api/v1/pods`."""
    code = number(status, "code") or http_status
    reason = text(status, "reason") or "Unknown"
    known = AlreadyExistsError if reason == "AlreadyExists" else _BY_STATUS.get(code, ApiError)
    message = " ".join(text(status, "message").split()) or f"HTTP status {code}"
    wait_seconds = retry_after_seconds
    if wait_seconds is None and number(status, "details", "retryAfterSeconds") > 0:
        wait_seconds = float(number(status, "details", "retryAfterSeconds"))
    return known(
        code,
        reason,
        f"{request}: {message}",
        retry_after_seconds=wait_seconds,
        causes=_causes(section(status, "details")),
    )


def error_of_response(
    payload: bytes, *, http_status: int, request: str, retry_after_seconds: float | None = None
) -> ApiError:
    """Return the error that the body of a response tells of, whether it is a `Status` or any text."""
    try:
        decoded = orjson.loads(payload)
    except orjson.JSONDecodeError:
        decoded = {"message": payload[:512].decode(errors="replace")}
    status: Manifest = decoded if isinstance(decoded, dict) else {}
    return error_of(status, http_status=http_status, request=request, retry_after_seconds=retry_after_seconds)


def _causes(details: Manifest) -> tuple[str, ...]:
    """Return the causes of a `Status`, one line each."""
    return tuple(_cause(cause) for cause in sections(details, "causes"))


def _cause(cause: Manifest) -> str:
    """Return one cause: `field: message`, and before it the reason where that is what counts."""
    where = text(cause, "field")
    told = " ".join(text(cause, "message").split())
    words = (_TERMINATING if text(cause, "reason") == _TERMINATING else "", where, told or text(cause, "reason"))
    return ": ".join(word for word in words if word)
