"""What a pod with a part of a model fetches: each byte that it lacks once, none that it has, whatever a source does."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.weights import Piece
from tandem_checkpoint.segments.manifest import covers
from tandem_checkpoint.segments.store import map_for_writing, segment_name
from tandem_checkpoint.transfer import fetch as fetching
from tandem_checkpoint.transfer.extents import Extent, Source
from tandem_checkpoint.transfer.fetch import Fetched, FetchFailed, fetch
from tandem_checkpoint.transfer.http import http_reader
from tandem_checkpoint.transfer.mooncake import Session
from tandem_checkpoint.transfer.one_sided import MooncakeReader
from tandem_checkpoint.transfer.plan import Offer, Route, plan_routes
from tandem_checkpoint.transfer.reader import SegmentReader
from tandem_checkpoint.transfer.runs import MOST_RUNS, Runs, runs_of, scatter, size_of
from tests.tandem_checkpoint.jobs import TOKEN
from tests.tandem_checkpoint.transfer.parts import REFERENCE, WHOLE, part, part_pods, whole
from tests.tandem_checkpoint.transfer.pods import GENERATION, LAYOUT, Pod, content, mooncake_session, spoil

pytestmark = pytest.mark.usefixtures("own_network")

SOON = 10.0


def source(pod: str) -> Source:
    return Source(pod, f"http://{pod}:8701")


def marked(runs: Sequence[Runs]) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """Return how often each byte of a segment is in these runs."""
    count = np.zeros(LAYOUT.num_bytes, np.uint8)
    for row in runs:
        view = row.in_(count)
        view += 1
    return count


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, tuple[Piece, ...]]:
    """What hybrid pods have: parts of a model that some pods hold together, perhaps several times."""
    num_replicas = draw(st.integers(1, 3))
    everything = tuple(WHOLE.values())
    layouts: list[list[tuple[Piece, ...]]] = [[part(0), part(1)], [everything[::2], everything[1::2]]]
    parts = draw(st.sampled_from(layouts))
    names = iter(range(100))
    return {f"toy-hybrid-{next(names)}": pieces for _, pieces in product(range(num_replicas), parts)}


@given(jobs(), st.sampled_from([64, 4096, 1 << 20]), st.integers(0, 2))
def test_every_pod_asks_for_each_byte_that_it_lacks_exactly_once(
    held: dict[str, tuple[Piece, ...]], extent_bytes: int, num_rollout: int
) -> None:
    offers = [Offer(source(pod), pieces) for pod, pieces in held.items()]
    bare = [f"toy-rollout-{number}" for number in range(num_rollout)]
    everything = marked([runs_of(piece) for piece in WHOLE.values()])

    for reader in (*held, *bare):
        (route,) = plan_routes(offers, reader, extent_bytes, peers=bare)

        own = marked([runs_of(piece) for piece in held.get(reader, ())])
        assert (marked([row for extent in route.extents for row in extent.runs]) + own == everything).all()
        assert covers(LAYOUT, route.pieces)
        assert all(len(extent.runs) <= MOST_RUNS for extent in route.extents)
        assert all({*held[item.pod]} >= {*extent.pieces} for extent in route.extents for item in extent.sources)


@given(jobs())
def test_what_is_asked_for_makes_up_the_policy(held: dict[str, tuple[Piece, ...]]) -> None:
    offers = [Offer(source(pod), pieces) for pod, pieces in held.items()]
    segments = {pod: whole(pieces) for pod, pieces in held.items()}
    reader = next(iter(held))
    (route,) = plan_routes(offers, reader, 4096)

    into = bytearray(segments[reader])
    for extent in route.extents:
        scatter(memoryview(sent(segments[extent.sources[0].pod], extent)), extent.runs, into)

    assert bytes(into) == whole(WHOLE.values())


def sent(segment: bytes, extent: Extent) -> bytes:
    return b"".join(row.in_(segment).tobytes() for row in extent.runs)


@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_pods_that_hold_the_same_part_send_as_much_as_each_other(num_replicas: int) -> None:
    held = {f"toy-hybrid-{ordinal}": part(ordinal % 2) for ordinal in range(2 * num_replicas)}
    offers = [Offer(source(pod), pieces) for pod, pieces in held.items()]

    loads: Counter[str] = Counter()
    for reader in held:
        (route,) = plan_routes(offers, reader, 4096)
        for extent in route.extents:
            loads[extent.sources[0].pod] += extent.num_bytes

    of_part = [[loads[pod] for pod in held if held[pod] == part(number)] for number in (0, 1)]
    largest = max(piece.num_bytes for piece in WHOLE.values())
    assert all(max(row) - min(row) <= largest for row in of_part)
    assert sum(loads.values()) == sum(
        size_of(map(runs_of, WHOLE.values())) - size_of(map(runs_of, held[pod])) for pod in held
    )


def test_a_pod_that_has_everything_asks_for_nothing() -> None:
    offers = [Offer(source("toy-hybrid-0"), tuple(WHOLE.values())), Offer(source("toy-hybrid-1"), part(1))]

    (route,) = plan_routes(offers, "toy-hybrid-0")

    assert route.extents == ()


def test_a_pods_own_pieces_stay_where_the_last_bit_differs_elsewhere() -> None:
    small = next(piece for piece in part(0) if len(piece.start) == 1)
    other = small.model_copy(update={"xxh3": small.xxh3 ^ 1})
    theirs = tuple(other if piece == small else piece for piece in part(1))

    (route,) = plan_routes(
        [Offer(source("toy-hybrid-0"), part(0)), Offer(source("toy-hybrid-1"), theirs)], "toy-hybrid-0"
    )

    assert small in route.pieces
    assert all(other not in extent.pieces for extent in route.extents)


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", 0.0)


@pytest.fixture(params=["http", "mooncake"])
def lending(request: pytest.FixtureRequest) -> Session | None:
    return mooncake_session("lends") if request.param == "mooncake" else None


@pytest.fixture
async def reader(lending: Session | None) -> AsyncIterator[SegmentReader]:
    async with http_reader(TOKEN) as plain:
        yield MooncakeReader(mooncake_session("reads"), plain) if lending else plain


@dataclass(slots=True)
class Scene:
    """Pods of a job; the first one fetches what it lacks."""

    pods: list[Pod]
    reader: SegmentReader
    old: bytes = field(default=b"")

    def routes(self, extent_bytes: int = 1) -> tuple[Route, ...]:
        return plan_routes([pod.offer for pod in self.pods], self.pods[0].name, extent_bytes)

    async def fetch(self, reader: SegmentReader | None = None, seconds: float = SOON) -> Fetched:
        into = map_for_writing(self.pods[0].folder / segment_name(GENERATION))
        return await fetch(self.routes(), GENERATION, reader or self.reader, into, seconds)

    @property
    def old_is_whole(self) -> bool:
        return (self.pods[0].folder / segment_name(GENERATION - 1)).read_bytes() == REFERENCE

    @property
    def own_is_whole(self) -> bool:
        now = content(self.pods[0].folder)
        return all((row.in_(now) == row.in_(REFERENCE)).all() for row in map(runs_of, part(0)))


@pytest.fixture
async def pair(tmp_path: Path, lending: Session | None, reader: SegmentReader) -> AsyncIterator[Scene]:
    """A model that two pods hold together."""
    async with part_pods(tmp_path, [0, 1], lending) as pods:
        (pods[0].folder / segment_name(GENERATION - 1)).write_bytes(REFERENCE)
        yield Scene(pods, reader)


@pytest.fixture
async def four(tmp_path: Path, lending: Session | None, reader: SegmentReader) -> AsyncIterator[Scene]:
    """The same twice."""
    async with part_pods(tmp_path, [0, 1, 0, 1], lending) as pods:
        (pods[0].folder / segment_name(GENERATION - 1)).write_bytes(REFERENCE)
        yield Scene(pods, reader)


def lacking() -> int:
    return size_of(map(runs_of, WHOLE.values())) - size_of(map(runs_of, part(0)))


async def test_the_rest_comes_from_the_other_pod_each_byte_once(pair: Scene) -> None:
    fetched = await pair.fetch()

    assert content(pair.pods[0].folder) == whole(WHOLE.values())
    assert fetched.sources == (pair.pods[1].source,)
    assert (fetched.num_bytes, fetched.num_read_bytes) == (lacking(), lacking())


async def test_all_pods_that_hold_the_rest_give_some(four: Scene) -> None:
    fetched = await four.fetch()

    assert fetched.sources == (four.pods[1].source, four.pods[3].source)
    assert fetched.num_read_bytes == lacking()


async def test_a_source_that_dies_in_the_middle_is_left_for_another_holder(four: Scene) -> None:
    dying = Dying(four.reader, four.pods[1], num_reads=2)

    fetched = await four.fetch(dying)

    assert content(four.pods[0].folder) == whole(WHOLE.values())
    assert four.pods[3].source in fetched.sources
    assert four.old_is_whole


async def test_a_source_with_wrong_bytes_is_left_for_another_holder(four: Scene) -> None:
    for piece in part(1):
        spoil(four.pods[1].folder, piece.offset_bytes)

    fetched = await four.fetch()

    assert content(four.pods[0].folder) == whole(WHOLE.values())
    assert fetched.sources == (four.pods[3].source,)
    assert fetched.num_read_bytes > fetched.num_bytes == lacking()


async def test_where_the_only_holder_dies_the_fetch_fails_and_hurts_nothing(pair: Scene) -> None:
    dying = Dying(pair.reader, pair.pods[1], num_reads=2)

    with pytest.raises(FetchFailed, match=r"generation 3: .* could not be fetched from any pod: toy-hybrid-1: "):
        await pair.fetch(dying)

    assert pair.old_is_whole
    assert pair.own_is_whole


async def test_where_the_only_holder_stands_still_the_fetch_ends_at_its_deadline(pair: Scene) -> None:
    with pytest.raises(FetchFailed, match=r"could not be fetched within 0\.3 s"):
        await pair.fetch(Hanging(), seconds=0.3)

    assert pair.old_is_whole
    assert pair.own_is_whole


@dataclass(slots=True)
class Dying:
    """A reader in whose midst a source is killed: after so many reads."""

    reader: SegmentReader
    pod: Pod
    num_reads: int

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        self.num_reads -= 1
        if self.num_reads == 0:
            self.pod.exports.forget(GENERATION)
            await self.pod.die()
        await self.reader.read(source, generation, runs, into)


class Hanging:
    """A reader whose sources never answer."""

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        await asyncio.sleep(SOON)
