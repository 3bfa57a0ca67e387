"""The weights in this pod's segments: list, publish, fetch, verify, and the bytes themselves."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Annotated

from fastapi import APIRouter, Header, Path
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tandem_api.engine import (
    ENGINE_PORT_TRAIN,
    FetchedWeights,
    HeldWeights,
    PublishedWeights,
    SegmentAddress,
    SegmentRuns,
    VerifiedWeights,
    WeightFingerprints,
    WeightsList,
    WeightsSummary,
)
from tandem_checkpoint.http.capabilities import Capabilities, Conflict, NotOffered, WeightStore
from tandem_checkpoint.http.problems import Responses, refusals
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.registry.errors import Fenced, RegistryError
from tandem_checkpoint.segments.store import SegmentError
from tandem_checkpoint.switch.train import WrongPhase
from tandem_checkpoint.transfer.byte_range import BadRange, parse_range, parse_runs
from tandem_checkpoint.transfer.exports import AllStreamsTaken, Held, NotHeld, Streams, chunks, chunks_of_runs
from tandem_checkpoint.transfer.fetch import FetchFailed, extent_seconds
from tandem_checkpoint.transfer.mooncake import MooncakeMissing
from tandem_checkpoint.transfer.runs import size_of

logger = logging.getLogger(__name__)

Generation = Annotated[int, Path(ge=0, description="Version of the weights.")]
Range = Annotated[str, Header(alias="range", description="One range of bytes, as bytes=0-4095.")]
OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
BYTES: Responses = {
    200: {"description": "The whole segment.", "content": OCTETS},
    206: {"description": "The bytes of the range, no more and no less.", "content": OCTETS},
}


def routes(offered: Capabilities) -> APIRouter:
    """Return everything below /v1/weights."""
    router = APIRouter(prefix="/v1/weights", tags=["weights"])
    _add_store(router, offered)
    _add_changes(router, offered)
    return router


def _add_store(router: APIRouter, offered: Capabilities) -> None:
    """Add what tells about the segments as they are."""
    errors = (NotOffered, NotHeld, SegmentError, RequestValidationError)
    streams = Streams()

    @router.get("", responses=refusals(NotOffered))
    async def weights() -> WeightsList:
        """The generations that this pod's segments hold, oldest first."""
        published = offered.phase.phase().published if offered.phase else None
        return WeightsList(weights=tuple(_summary(held, published) for held in _store(offered).list()))

    @router.get("/{generation}", responses=refusals(NotOffered, NotHeld, RequestValidationError))
    async def held_weights(generation: Generation) -> HeldWeights:
        """The shards of this pod, with the place and checksum of every piece."""
        return _store(offered).get(generation).weights

    @router.post("/{generation}/verify", responses=refusals(*errors))
    async def verify(generation: Generation) -> VerifiedWeights:
        """Read every byte of a generation again and compare every checksum. What differs is named in the answer."""
        return await _store(offered).verify(generation)

    @router.get(
        "/{generation}/segment",
        response_class=StreamingResponse,
        responses={**BYTES, **refusals(*errors, BadRange, AllStreamsTaken)},
    )
    async def segment(generation: Generation, byte_range: Range = "") -> StreamingResponse:
        """The bytes of the segment: those of the Range header (206), else all. It may be overwritten while it is read:
        compare the checksums. 503 where so many others are reading that the job would be slowed: ask another pod."""
        return _stream(_store(offered).get(generation), byte_range, streams)

    @router.post(
        "/{generation}/runs",
        response_class=StreamingResponse,
        responses={200: BYTES[206], **refusals(*errors, BadRange, AllStreamsTaken)},
    )
    async def runs(generation: Generation, wanted: SegmentRuns) -> StreamingResponse:
        """Bytes of the segment that do not lie together, one run behind the other; else as for segment."""
        held = _store(offered).get(generation)
        found = parse_runs(wanted.runs, held.weights.segment_bytes)
        headers = {"Content-Length": str(size_of(found))}
        return _counted(chunks_of_runs(held.path, found), 200, headers, streams)

    @router.get("/{generation}/address", responses=refusals(*errors))
    async def address(generation: Generation) -> SegmentAddress:
        """Where a generation's bytes lie in this engine's memory, for pods that read them by themselves, by Mooncake.
        Valid while the generation is held."""
        held = _store(offered).get(generation)
        if offered.lender is None:
            raise NotOffered("this engine lends no memory; read the segment by HTTP")
        try:
            return await asyncio.to_thread(offered.lender.address, held)
        except MooncakeMissing as error:
            raise NotOffered(f"{error}; read the segment by HTTP") from None


class CountedResponse(StreamingResponse):
    """A response that gives its stream back when it has ended, however it ends; a reader that stands still ends it."""

    streams: Streams
    seconds: float
    """As long as a reader gives its source: by then it has given up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            logger.warning("a reader has not taken its bytes within %.1f s; its stream is for others now", self.seconds)
        finally:
            self.streams.give_back()


def _add_changes(router: APIRouter, offered: Capabilities) -> None:
    """Add what writes segments."""
    common = (NotOffered, Conflict, RegistryError, TimeoutError, SegmentError, RequestValidationError)

    @router.post("/{generation}/publish", responses=refusals(*common, WrongPhase, Fenced, ChildGone))
    async def publish(generation: Generation) -> PublishedWeights:
        """Have a trainer export and register a generation, again or for the first time. The master publishes it once
        the shards of all pods are registered. 409 where the trainer does not hold this generation."""
        if offered.publisher is None:
            raise NotOffered(f"this member writes no weights; ask port {ENGINE_PORT_TRAIN} of a hybrid pod")
        return await offered.publisher.publish(generation)

    asked = (NotOffered, Conflict, ChildGone, CommandRefused, TimeoutError, RequestValidationError)

    @router.get("/{generation}/fingerprints", responses=refusals(*asked))
    async def fingerprints(generation: Generation) -> WeightFingerprints:
        """What the ranks of a trainer hold, live or parked, as sums over boxes: see docs/weights.md, self-test. 409
        where they hold another generation."""
        if offered.publisher is None:
            raise NotOffered(f"this member has no ranks; ask port {ENGINE_PORT_TRAIN} of a hybrid pod")
        return await offered.publisher.fingerprints(generation)

    @router.post("/{generation}/fetch", responses=refusals(*common, FetchFailed))
    async def fetch(generation: Generation) -> FetchedWeights:
        """Have a rollout-only pod bring a published generation into its idle segment ahead of time."""
        if offered.fetcher is None:
            raise NotOffered("this member's weights come from the trainer of its own pod; ask a rollout-only pod")
        return await offered.fetcher.fetch(generation)


def _store(offered: Capabilities) -> WeightStore:
    if offered.weights is None:
        raise NotOffered(f"this member holds no weights for others; ask port {ENGINE_PORT_TRAIN} of a hybrid pod")
    return offered.weights


def _summary(held: Held, published: int | None) -> WeightsSummary:
    return WeightsSummary(
        generation=held.weights.generation,
        segment=held.path.name,
        segment_bytes=held.weights.segment_bytes,
        num_bytes=held.num_bytes,
        num_shards=len(held.weights.shards),
        is_published=published is not None and held.weights.generation <= published,
    )


def _stream(held: Held, byte_range: str, streams: Streams) -> StreamingResponse:
    total = held.weights.segment_bytes
    wanted = parse_range(byte_range, total)
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(wanted.num_bytes)}
    if byte_range:
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{total}"
    return _counted(chunks(held.path, wanted.start, wanted.stop), 206 if byte_range else 200, headers, streams)


def _counted(
    content: AsyncIterator[bytes], status: int, headers: Mapping[str, str], streams: Streams
) -> CountedResponse:
    """Return what sends bytes on one of the streams. Errors: AllStreamsTaken."""
    streams.take()
    response = CountedResponse(content, status_code=status, media_type="application/octet-stream", headers=headers)
    response.streams, response.seconds = streams, extent_seconds(int(headers["Content-Length"]))
    return response
