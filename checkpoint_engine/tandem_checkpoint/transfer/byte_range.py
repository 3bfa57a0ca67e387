"""The Range header of a request for bytes (RFC 9110, section 14), as far as readers of weights use it."""

import re
from dataclasses import dataclass

FORM = re.compile(r"bytes=(\d+)-(\d*)")


class BadRange(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A Range header that asks for no bytes of the segment, or in another form than one range of bytes."""


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
