"""A generation fetched from other pods: whole, checked, and from another source whatever a source does."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tandem_checkpoint.segments.manifest import verify
from tandem_checkpoint.segments.store import allocate, map_for_writing, segment_name
from tandem_checkpoint.transfer import fetch as fetching
from tandem_checkpoint.transfer.fetch import NUM_ROUNDS, STREAMS_PER_SOURCE, Fetched, FetchFailed, extent_seconds, fetch
from tandem_checkpoint.transfer.http import http_reader
from tandem_checkpoint.transfer.mooncake import Session
from tandem_checkpoint.transfer.one_sided import MooncakeReader
from tandem_checkpoint.transfer.plan import Offer, Route, Source, plan_routes
from tandem_checkpoint.transfer.reader import SegmentReader, SourceBusy, SourceFailed
from tandem_checkpoint.transfer.runs import Runs
from tests.tandem_checkpoint.jobs import TOKEN
from tests.tandem_checkpoint.transfer.pods import (
    GENERATION,
    LAYOUT,
    Pod,
    broken_pod,
    content,
    exporting_pod,
    mooncake_session,
    spoil,
)

pytestmark = pytest.mark.usefixtures("own_network")

SOON = 10.0
READER = "job-rollout-0"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", 0.0)


@pytest.fixture(params=["http", "mooncake"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lending(transport: str) -> Session | None:
    """What pods lend their segments with."""
    return mooncake_session("lends") if transport == "mooncake" else None


@pytest.fixture
async def first(tmp_path: Path, lending: Session | None) -> AsyncIterator[Pod]:
    async with exporting_pod(tmp_path, "job-hybrid-0", session=lending) as pod:
        yield pod


@pytest.fixture
async def second(tmp_path: Path, lending: Session | None) -> AsyncIterator[Pod]:
    """Another pod with the same weights."""
    async with exporting_pod(tmp_path, "job-hybrid-1", session=lending) as pod:
        yield pod


@pytest.fixture
async def reader(transport: str) -> AsyncIterator[SegmentReader]:
    async with http_reader(TOKEN) as plain:
        yield MooncakeReader(mooncake_session("reads"), plain) if transport == "mooncake" else plain


@dataclass(slots=True)
class Target:
    """The segment of the pod that fetches."""

    folder: Path
    reader: SegmentReader

    async def fetch(self, *routes: Route, deadline_seconds: float = SOON) -> Fetched:
        into = map_for_writing(self.folder / segment_name(GENERATION))
        return await fetch(routes, GENERATION, self.reader, into, deadline_seconds)

    @property
    def content(self) -> bytes:
        return content(self.folder)


@pytest.fixture
def target(tmp_path: Path, reader: SegmentReader) -> Target:
    folder = tmp_path / READER
    folder.mkdir()
    allocate(folder, LAYOUT.num_bytes)
    return Target(folder, reader)


def route(pod: Pod, *others: Source, extent_bytes: int = 4096) -> Route:
    """Return the route over sources with the pod's pieces, the others asked first."""
    (planned,) = plan_routes([pod.offer], READER, extent_bytes)
    return asking(planned, *others, pod.source)


def asking(route: Route, *sources: Source) -> Route:
    """Return a route of the same extents over other sources."""
    return Route(route.pieces, tuple(replace(extent, sources=sources) for extent in route.extents))


async def test_a_fetched_segment_is_the_sources_byte_by_byte(first: Pod, target: Target) -> None:
    fetched = await target.fetch(route(first))

    assert target.content == content(first.folder)
    assert fetched.sources == (first.source,)
    assert fetched.num_bytes == sum(piece.num_bytes for piece in first.shard.pieces)
    verify(target.content, fetched.pieces)


async def test_a_source_with_wrong_bytes_is_left_for_another(first: Pod, second: Pod, target: Target) -> None:
    spoil(first.folder)

    fetched = await target.fetch(route(second, first.source))

    assert target.content == content(second.folder)
    assert second.source in fetched.sources


async def test_a_source_that_is_not_there_is_left_for_another(first: Pod, target: Target) -> None:
    gone = Source("job-hybrid-9", "http://127.99.255.254:9")

    fetched = await target.fetch(route(first, gone))

    assert fetched.sources == (first.source,)


async def test_a_source_that_no_longer_holds_the_generation_is_left_for_another(
    first: Pod, second: Pod, target: Target
) -> None:
    first.exports.forget(GENERATION + 2)

    fetched = await target.fetch(route(second, first.source))

    assert fetched.sources == (second.source,)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 100000\r\n\r\nhalf of it",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\n\r\nless",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 200000\r\n\r\n" + bytes(200000),
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfull",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"",
    ],
    ids=["dies in the middle", "too little", "too much", "all of it", "refused", "noise", "nothing"],
)
async def test_whatever_a_broken_source_answers_another_one_is_asked(first: Pod, target: Target, answer: bytes) -> None:
    async with broken_pod("job-hybrid-9", answer) as broken:
        fetched = await target.fetch(route(first, broken))

    assert target.content == content(first.folder)
    assert fetched.sources == (first.source,)


async def test_a_source_that_is_too_slow_is_left_for_another(
    first: Pod, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "EXTENT_SECONDS", 0.2)
    answer = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4096\r\n\r\nhalf of it"

    async with broken_pod("job-hybrid-9", answer, hangs=True) as slow:
        fetched = await target.fetch(route(first, slow))

    assert fetched.sources == (first.source,)


async def test_a_source_that_is_killed_in_the_middle_is_left_for_another(
    first: Pod, second: Pod, target: Target
) -> None:
    dying = DyingAfter(target.reader, first, num_reads=3)

    into = map_for_writing(target.folder / segment_name(GENERATION))
    fetched = await fetch([route(second, first.source, extent_bytes=1)], GENERATION, dying, into, SOON)

    assert target.content == content(second.folder)
    assert fetched.sources == (first.source, second.source)


async def test_where_every_source_is_bad_the_error_names_pieces_sources_and_causes(
    first: Pod, second: Pod, target: Target
) -> None:
    spoil(first.folder)
    second.exports.forget(GENERATION)

    with pytest.raises(FetchFailed) as refusal:
        await target.fetch(route(second, first.source, extent_bytes=1))

    words = str(refusal.value)
    assert words.startswith("generation 3: model.embed_tokens.weight")
    assert "could not be fetched from any pod" in words
    assert "job-hybrid-0: checksum of model.embed_tokens.weight differs" in words
    assert "job-hybrid-1: answered 404" in words


async def test_a_missed_deadline_names_what_is_missing(first: Pod, target: Target) -> None:
    async with broken_pod("job-hybrid-9", b"", hangs=True) as slow:
        only = asking(route(first), slow)
        with pytest.raises(
            FetchFailed, match=r"generation 3: model\..* and \d+ more could not be fetched within 0.2 s"
        ):
            await target.fetch(only, deadline_seconds=0.2)


async def test_one_failure_of_the_only_source_does_not_end_the_fetch(first: Pod, target: Target) -> None:
    flaky = Flaky(target.reader)

    into = map_for_writing(target.folder / segment_name(GENERATION))
    await fetch([route(first)], GENERATION, flaky, into, SOON)

    assert target.content == content(first.folder)


async def test_a_segment_is_never_put_together_from_pods_with_other_checksums(
    tmp_path: Path, first: Pod, target: Target, lending: Session | None
) -> None:
    async with exporting_pod(tmp_path, "job-hybrid-1", seed=2, session=lending) as other:
        routes = plan_routes([Offer(first.source, first.shard.pieces), other.offer], READER, 4096)
        preferred = first if first.source in routes[0].sources else other
        rest = other if preferred is first else first
        spoil(preferred.folder, LAYOUT.parameters[-1].offset_bytes)

        fetched = await target.fetch(*routes)

    assert target.content == content(rest.folder)
    assert fetched.pieces == routes[1].pieces


async def test_the_extents_are_spread_over_all_sources(first: Pod, second: Pod, target: Target) -> None:
    fetched = await target.fetch(route(second, first.source, extent_bytes=1))

    assert fetched.sources == (first.source, second.source)


async def test_no_source_is_asked_for_more_than_its_share_at_once(first: Pod, second: Pod, target: Target) -> None:
    counting = Counting(target.reader)

    into = map_for_writing(target.folder / segment_name(GENERATION))
    await fetch([route(second, first.source, extent_bytes=1)], GENERATION, counting, into, SOON)

    assert set(counting.most.values()) == {STREAMS_PER_SOURCE}


async def test_a_source_that_is_busy_is_asked_again_and_has_not_failed(first: Pod, target: Target) -> None:
    busy = Busy(target.reader, num_refusals=NUM_ROUNDS * 3)

    into = map_for_writing(target.folder / segment_name(GENERATION))
    fetched = await fetch([route(first)], GENERATION, busy, into, SOON)

    assert fetched.sources == (first.source,)


async def test_without_a_route_nothing_can_be_fetched(target: Target) -> None:
    with pytest.raises(FetchFailed, match="could not be fetched from any pod: no source has failed"):
        await target.fetch()


def test_a_larger_extent_has_more_time() -> None:
    assert extent_seconds(64 << 20) - extent_seconds(0) == 8.0


@dataclass(slots=True)
class DyingAfter:
    """A reader in whose midst a source is killed: after so many reads."""

    reader: SegmentReader
    pod: Pod
    num_reads: int

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        if source == self.pod.source and self.num_reads <= 0:
            await self.pod.die()
        await self.reader.read(source, generation, runs, into)
        self.num_reads -= 1


@dataclass(slots=True)
class Flaky:
    """A reader whose first read of each range fails."""

    reader: SegmentReader
    seen: set[tuple[Runs, ...]] = field(default_factory=set)

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        if tuple(runs) not in self.seen:
            self.seen.add(tuple(runs))
            raise SourceFailed("reset by peer")
        await self.reader.read(source, generation, runs, into)


@dataclass(slots=True)
class Counting:
    """A reader that knows how many extents were on their way from a source at once."""

    reader: SegmentReader
    now: Counter[str] = field(default_factory=Counter)
    most: dict[str, int] = field(default_factory=dict)

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        self.now[source.pod] += 1
        self.most[source.pod] = max(self.now[source.pod], self.most.get(source.pod, 0))
        await self.reader.read(source, generation, runs, into)
        self.now[source.pod] -= 1


@dataclass(slots=True)
class Busy:
    """A reader whose source has no stream to spare for a while."""

    reader: SegmentReader
    num_refusals: int

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        self.num_refusals -= 1
        if self.num_refusals >= 0:
            raise SourceBusy("8 ranges are being sent now")
        await self.reader.read(source, generation, runs, into)
