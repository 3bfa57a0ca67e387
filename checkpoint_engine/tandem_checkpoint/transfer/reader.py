"""The seam to what moves the bytes: plain HTTP here, one-sided reads where there is hardware for them."""

from collections.abc import Sequence
from typing import Protocol

from tandem_checkpoint.transfer.extents import Source
from tandem_checkpoint.transfer.runs import Runs


class SourceFailed(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A source did not give the bytes that it was asked for; another one may."""


class SourceBusy(SourceFailed):
    """A source gives to as many readers as it may: ask another one, or the same a little later."""


class SegmentReader(Protocol):
    """Reads bytes of the segments of other pods. The caller sets the deadline and compares the checksums."""

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        """Fill `into` with runs of a generation's segment, one behind the other. Errors: SourceFailed, SourceBusy.

        Once the call has ended, or was cancelled, nothing more is written.
        """
        ...
