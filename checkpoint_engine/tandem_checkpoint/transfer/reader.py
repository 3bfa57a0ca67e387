"""The seam to what moves the bytes: plain HTTP here, one-sided reads where there is hardware for them."""

from typing import Protocol

from tandem_checkpoint.transfer.plan import Source


class SourceFailed(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A source did not give the bytes that it was asked for; another one may."""


class SourceBusy(SourceFailed):
    """A source gives to as many readers as it may: ask another one, or the same a little later."""


class SegmentReader(Protocol):
    """Reads ranges of the segments of other pods. The caller sets the deadline and compares the checksums."""

    async def read(self, source: Source, generation: int, start: int, into: memoryview) -> None:
        """Fill `into` with the bytes of a generation's segment from `start` on. Errors: SourceFailed, SourceBusy.

        Once the call has ended, or was cancelled, nothing more is written.
        """
        ...
