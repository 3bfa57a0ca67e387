"""Log records as JSON lines: time, level, logger, message and the job that was being worked on; no secret."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

import orjson

from tandem_operator.program.settings import LogFormat

QUIET = {
    "kopf": logging.WARNING,
    "kopf._cogs.clients.api": logging.CRITICAL,  # an error a try; the caches say once that the API server is away
    "aiohttp.access": logging.WARNING,
    "asyncio": logging.WARNING,
    "etcd3aio": logging.ERROR,  # the mirror of the registry says once that it is away, and once that it is back
    "tandem_checkpoint.registry": logging.ERROR,
}
"""Loggers that would write a line for each of their steps."""
HIDDEN = "[hidden]"
_SECRETS = (
    re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
    re.compile(r"(?i)(\b(?:access_|id_|refresh_)?(?:token|password|secret)\b[\"']?\s*[=:]\s*[\"']?)[^\s\"',;}]{8,}"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL),
)


@dataclass(frozen=True, slots=True)
class JobName:
    """The job that a task works on."""

    namespace: str
    name: str


_job: ContextVar[JobName | None] = ContextVar("job", default=None)


@contextmanager
def about(namespace: str, name: str) -> Iterator[None]:
    """Put a job's name on every record that is logged inside, in this task and those that it starts."""
    token = _job.set(JobName(namespace, name))
    try:
        yield
    finally:
        _job.reset(token)


def hide_secrets(text: str) -> str:
    """Return `text` with tokens, passwords and private keys left out."""
    for pattern in _SECRETS:
        text = pattern.sub(lambda found: f"{found[1]} {HIDDEN}" if found.re.groups else HIDDEN, text)
    return text


def configure_logging(log_format: LogFormat, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Make every logger of the process write to `stream` (stderr where none is given) in one format."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(_with_job)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, quieter in QUIET.items():
        logging.getLogger(name).setLevel(quieter)
    logging.captureWarnings(True)


class JsonFormatter(logging.Formatter):
    """One JSON object a record, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": hide_secrets(record.getMessage()),
        }
        if (job := _job_of(record)) is not None:
            entry |= {"namespace": job.namespace, "job": job.name}
        if record.exc_info:
            entry["error"] = hide_secrets(self.formatException(record.exc_info))
        return orjson.dumps(entry).decode()


class TextFormatter(logging.Formatter):
    """One line a record, for people; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        job = _job_of(record)
        where = f" [{job.namespace}/{job.name}]" if job is not None else ""
        line = f"{_time(record)} {record.levelname} {record.name}{where}: {record.getMessage()}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return hide_secrets(line)


def _with_job(record: logging.LogRecord) -> bool:
    """Note the job at the time of the record: a formatter may run later, or elsewhere."""
    record.job = _job.get()
    return True


def _job_of(record: logging.LogRecord) -> JobName | None:
    job = getattr(record, "job", None)
    return job if isinstance(job, JobName) else _job.get()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
