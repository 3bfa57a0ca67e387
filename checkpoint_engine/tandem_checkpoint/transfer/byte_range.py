"""Which bytes a request asks for: a Range header (RFC 9110, section 14) as readers of weights use it, or runs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_api.engine import ByteRuns
from tandem_checkpoint.transfer.runs import Runs, size_of

FORM = re.compile(r"bytes=(\d+)-(\d*)")


class BadRange(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A request for no bytes of the segment, for more of them than there are, or in a form that is not known."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`start <= i < stop`, never empty."""

    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start


def parse_range(header: str, num_bytes: int) -> ByteRange:
    """Return the range that a header asks for in a segment of `num_bytes`; without a header, all of it.

    Unlike a file server this one never sends more or less than was asked: a range that does not lie within the segment
    is BadRange.
    """
    if not header:
        return ByteRange(0, num_bytes)
    form = FORM.fullmatch(header)
    if form is None:
        raise BadRange(f"Range: {header[:80]}: give one range of bytes, as bytes=0-4095")
    start = int(form[1])
    stop = int(form[2]) + 1 if form[2] else num_bytes
    if not start < stop <= num_bytes:
        raise BadRange(f"Range: {header[:80]}: is not within the segment, which has {num_bytes} bytes")
    return ByteRange(start, stop)


def parse_runs(wanted: Sequence[ByteRuns], num_bytes: int) -> tuple[Runs, ...]:
    """Return the runs that a body asks for in a segment of `num_bytes`; BadRange where one does not lie within it.

    None overlap within a row, and all together are no more than the segment has.
    """
    runs = tuple(Runs(row.offset_bytes, row.run_bytes, row.num_runs, row.stride_bytes) for row in wanted)
    for row in runs:
        if row.num_runs > 1 and row.stride_bytes < row.run_bytes:
            raise BadRange(f"runs of {row.run_bytes} bytes cannot lie {row.stride_bytes} apart")
        if row.stop_bytes > num_bytes:
            raise BadRange(f"runs up to byte {row.stop_bytes} are not within the segment, which has {num_bytes} bytes")
    if size_of(runs) > num_bytes:
        raise BadRange(f"{size_of(runs)} bytes are asked for at once of a segment that has {num_bytes}")
    return runs
