"""Ranges of segments read one-sidedly, by Mooncake; by HTTP where a source lends nothing, or where that has failed."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
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
from tandem_checkpoint.transfer.runs import Runs, cut, size_of

COPY_BYTES = 1 << 20
"""Longer runs are several copies of a batch."""


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

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        address = None if source in self._by_http else await self._http.address(source, generation)
        if address is None or address.protocol != self._session.protocol:
            await self._http.read(source, generation, runs, into)
            return
        needed = max(row.stop_bytes for row in runs)
        if needed > address.segment_bytes:
            raise SourceFailed(f"lends {address.segment_bytes} bytes; {needed} are needed")
        at = 0
        try:
            for batch in _batches(runs):
                num_bytes = size_of(batch)
                await self._bring(address, batch, into[at : at + num_bytes])
                at += num_bytes
        except SourceBusy:
            raise
        except (SourceFailed, asyncio.CancelledError):
            self._by_http.add(source)
            raise

    async def _bring(self, address: SegmentAddress, batch: Sequence[Runs], into: memoryview) -> None:
        """Bring one batch within its deadline. What comes later than that goes nowhere."""
        stage = self._take_stage()
        copies = tuple(_copies(address, batch, stage))
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


def _batches(runs: Sequence[Runs]) -> Iterator[list[Runs]]:
    """Yield single runs, each for one copy, as many as one batch brings."""
    batch: list[Runs] = []
    num_bytes = 0
    for run in cut(runs, COPY_BYTES):
        if len(batch) == MOST_COPIES - 1 or num_bytes + run.num_bytes > STAGE_BYTES:
            yield batch
            batch, num_bytes = [], 0
        batch.append(run)
        num_bytes += run.num_bytes
    yield batch


def _copies(address: SegmentAddress, batch: Sequence[Runs], stage: Stage) -> Iterator[Copy]:
    """Yield the witness and the runs, which come to lie one behind the other."""
    yield Copy(address.witness_address, stage.address, WITNESS_BYTES)
    into = stage.address + WITNESS_BYTES
    for run in batch:
        yield Copy(address.segment_address + run.offset_bytes, into, run.num_bytes)
        into += run.num_bytes


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
