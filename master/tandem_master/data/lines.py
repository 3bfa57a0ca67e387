"""Files of problems as lines of JSON: JSON lines as they are, Parquet row by row."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arro3.io import read_parquet, write_ndjson

from tandem_api.job.policy import ProblemFile
from tandem_master.errors import DataError

MAGIC = b"PAR1"
"""Begins and ends every Parquet file."""


@dataclass(frozen=True, slots=True)
class Line:
    """One problem as it was written."""

    number: int
    """Of the line in its file, or of the row, from 1."""
    where: str
    """`<file>:<number>`, for messages."""
    text: str
    """A JSON object, if all is well."""


def read_lines(spec: ProblemFile) -> Iterator[Line]:
    """Yield the lines of a problem set that are not empty. Errors: DataError names the file."""
    texts = _rows(spec) if Path(spec.path).suffix == ".parquet" else _content(spec).split("\n")
    for number, text in enumerate(texts, start=1):
        if text.strip():
            yield Line(number, f"{spec.path}:{number}", text)


def _content(spec: ProblemFile) -> str:
    try:
        return _bytes(spec).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{spec.path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _rows(spec: ProblemFile) -> Iterator[str]:
    """Yield each row of a Parquet file as JSON; a null is left out."""
    content = _bytes(spec)
    if not (content.startswith(MAGIC) and content.endswith(MAGIC)):
        raise DataError(f"{spec.path}: not a Parquet file; save it as one, or name it .jsonl if it holds JSON lines")
    try:
        for batch in read_parquet(content):
            lines = io.BytesIO()
            write_ndjson(batch, lines)
            yield from lines.getvalue().decode("utf-8").splitlines()
    except BaseException as error:
        # The library's panics are no Exception; whatever else is none, such as a cancellation, goes on.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{spec.path}: its Parquet cannot be read ({error}); write the file anew") from None


def _bytes(spec: ProblemFile) -> bytes:
    try:
        return Path(spec.path).read_bytes()
    except OSError as error:
        raise DataError(f"{spec.section}[{spec.name}].path: {spec.path} cannot be read ({error.strerror})") from error
