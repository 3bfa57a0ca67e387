"""Ranges of segments read one-sidedly, by Mooncake; by HTTP where a source lends nothing, or where that has failed."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread

from tandem_api.engine import SegmentAddress
from tandem_checkpoint.transfer.fetch import extent_seconds
from tandem_checkpoint.transfer.http import HttpReader
from tandem_checkpoint.transfer.mooncake import (
    MOST_COPIES,
    STAGE_BYTES,
    WITNESS_BYTES,
    Copy,
    MooncakeMissing,
    Session,
    Stage,
)
from tandem_checkpoint.transfer.plan import Source
from tandem_checkpoint.transfer.reader import SourceBusy, SourceFailed

COPY_BYTES = 1 << 20
"""Size of the copies that a batch consists of."""


class MooncakeReader:
    """See SegmentReader.

    Every batch brings the witness too: bytes that the source's engine drew when it started. Where they are not those
    that it tells of by HTTP, the address was an earlier engine's, and nothing is taken.
    """

    def __init__(self, session: Session, http: HttpReader) -> None:
        self._session = session
        self._http = http
        self._by_http: set[Source] = set()
        """Sources that have failed to give one-sidedly what they lend: their ports may be closed to us."""

    async def read(self, source: Source, generation: int, start: int, into: memoryview) -> None:
        address = None if source in self._by_http else await self._http.address(source, generation)
        if address is None or address.protocol != self._session.protocol:
            await self._http.read(source, generation, start, into)
            return
        if start + len(into) > address.segment_bytes:
            raise SourceFailed(f"lends {address.segment_bytes} bytes; {start + len(into)} are needed")
        most_bytes = min(STAGE_BYTES, COPY_BYTES * (MOST_COPIES - 1))
        try:
            for at in range(0, len(into), most_bytes):
                await self._bring(address, start + at, into[at : at + most_bytes])
        except SourceBusy:
            raise
        except (SourceFailed, asyncio.CancelledError):
            self._by_http.add(source)
            raise

    async def _bring(self, address: SegmentAddress, start: int, into: memoryview) -> None:
        """Bring one batch within its deadline. What comes later than that goes nowhere."""
        stage = self._take_stage()
        copies = tuple(_copies(address, start, len(into), stage))
        transfer = _in_thread(lambda: self._session.read(address.session, copies))
        seconds = extent_seconds(len(into))
        try:
            async with asyncio.timeout(seconds):
                status = await asyncio.shield(transfer)
            if status:
                raise SourceFailed(f"Mooncake read nothing from {address.session} (status {status})")
            if stage.witness.hex() != address.witness:
                raise SourceFailed(f"the address {address.session} is an earlier engine's")
            into[:] = stage.content(len(into))
        except TimeoutError:
            raise SourceFailed(f"took more than {seconds:.1f} s for a batch of {len(into)} bytes") from None
        finally:
            if transfer.done():
                self._session.give_back(stage)
            else:  # the bytes may still come; until then nobody else may use the stage
                transfer.add_done_callback(lambda _: self._session.give_back(stage))

    def _take_stage(self) -> Stage:
        try:
            stage = self._session.take_stage()
        except MooncakeMissing as error:
            raise SourceFailed(str(error)) from None
        if stage is None:
            raise SourceBusy("no stage is free: transfers that were given up have not ended yet")
        return stage


def _copies(address: SegmentAddress, start: int, num_bytes: int, stage: Stage) -> Iterator[Copy]:
    """Yield the witness and the bytes, cut into copies of one size."""
    yield Copy(address.witness_address, stage.address, WITNESS_BYTES)
    first, into = address.segment_address + start, stage.address + WITNESS_BYTES
    for at in range(0, num_bytes, COPY_BYTES):
        yield Copy(first + at, into + at, min(COPY_BYTES, num_bytes - at))


def _in_thread(call: Callable[[], int]) -> "asyncio.Future[int]":
    """Return what a call in a thread of its own will return. The thread holds nobody up who wants to end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()

    def run() -> None:
        status = call()
        with suppress(RuntimeError):  # the loop has been closed since
            loop.call_soon_threadsafe(future.set_result, status)

    Thread(target=run, daemon=True, name="one-sided read").start()
    return future
