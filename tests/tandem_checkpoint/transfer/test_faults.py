"""What goes wrong with a source on the way: the copy completes from another one, and the old generation stays whole."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tandem_api.engine import SegmentAddress
from tandem_api.weights import Shard
from tandem_checkpoint.segments.store import allocate, map_for_writing, segment_name
from tandem_checkpoint.transfer import fetch as fetching
from tandem_checkpoint.transfer import one_sided
from tandem_checkpoint.transfer.fetch import Fetched, FetchFailed, fetch
from tandem_checkpoint.transfer.http import HttpReader, http_reader
from tandem_checkpoint.transfer.mooncake import MOST_COPIES, Copy, TransferEngine, has_rdma
from tandem_checkpoint.transfer.one_sided import MooncakeReader
from tandem_checkpoint.transfer.plan import Offer, Source, plan_routes
from tandem_checkpoint.transfer.reader import SegmentReader, SourceFailed
from tandem_checkpoint.transfer.runs import Runs
from tests.tandem_checkpoint.etcd_process import free_address
from tests.tandem_checkpoint.jobs import TOKEN
from tests.tandem_checkpoint.transfer.pods import (
    GENERATION,
    LAYOUT,
    PORT,
    Pod,
    content,
    export,
    exporting_pod,
    mooncake_session,
)

pytestmark = pytest.mark.usefixtures("own_network")

SOON = 20.0
READER = "job-rollout-0"
OLD = GENERATION - 1
TRANSPORTS = ("http", "mooncake")


@dataclass(frozen=True, slots=True)
class Owner:
    """A pod in a process of its own, with the same weights as the others."""

    process: subprocess.Popen[str]
    source: Source
    shard: Shard

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)


NUM_OWNERS = 3


def launch(folder: Path, name: str, address: str) -> subprocess.Popen[str]:
    """Start a pod that serves and lends."""
    words = [sys.executable, "-m", "tests.tandem_checkpoint.transfer.owner", str(folder), name, "1", address, "lends"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)


def owner(process: subprocess.Popen[str], name: str, address: str) -> Owner:
    """Return a pod once it serves."""
    assert process.stdout is not None
    shard = Shard.model_validate_json(process.stdout.readline())
    return Owner(process, Source(name, f"http://{address}:{PORT}"), shard)


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Owner]]:
    """Pods in processes of their own, started side by side: who kills one takes it from the list."""
    mooncake_session("reads")
    places = [(f"job-hybrid-{number}", free_address()) for number in range(1, NUM_OWNERS + 1)]
    processes = [launch(tmp_path_factory.mktemp(name), *(name, address)) for name, address in places]
    try:
        yield [owner(process, *place) for process, place in zip(processes, places, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture
def lasting(owners: list[Owner]) -> Owner:
    """An owner that outlives the tests that stop it."""
    return owners[0]


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(fetching, "EXTENT_SECONDS", 0.5)


@pytest.fixture
async def good(tmp_path: Path) -> AsyncIterator[Pod]:
    async with exporting_pod(tmp_path, "job-hybrid-0", session=mooncake_session("lends")) as pod:
        yield pod


@pytest.fixture
async def plain() -> AsyncIterator[HttpReader]:
    async with http_reader(TOKEN) as plain:
        yield plain


@pytest.fixture(params=TRANSPORTS)
def reader(request: pytest.FixtureRequest, plain: HttpReader) -> SegmentReader:
    return MooncakeReader(mooncake_session("reads"), plain) if request.param == "mooncake" else plain


@dataclass(frozen=True, slots=True)
class Target:
    """The pod that fetches, with an older generation in its other segment."""

    folder: Path
    old: bytes

    async def fetch(self, reader: SegmentReader, *offers: Offer, seconds: float = SOON) -> Fetched:
        """Fetch in small extents, so that every source is asked for some."""
        into = map_for_writing(self.folder / segment_name(GENERATION))
        return await fetch(plan_routes(offers, READER, 1), GENERATION, reader, into, seconds)

    @property
    def old_is_whole(self) -> bool:
        return (self.folder / segment_name(OLD)).read_bytes() == self.old


def target_in(folder: Path) -> Target:
    folder.mkdir()
    allocate(folder, LAYOUT.num_bytes)
    export(folder, seed=9, generation=OLD)
    return Target(folder, (folder / segment_name(OLD)).read_bytes())


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return target_in(tmp_path / READER)


async def test_a_source_that_is_killed_in_the_middle_is_left_for_another(
    owners: list[Owner], good: Pod, tmp_path: Path, plain: HttpReader
) -> None:
    dying = owners.pop()
    readers: tuple[SegmentReader, ...] = (plain, MooncakeReader(mooncake_session("reads"), plain))
    targets = [target_in(tmp_path / f"{READER}-{number}") for number in range(len(readers))]
    offers = (good.offer, Offer(dying.source, dying.shard.pieces))

    fetches = [
        target.fetch(ActsAfter(reader, num_reads=4, act=dying.process.kill), *offers)
        for target, reader in zip(targets, readers, strict=True)
    ]
    await asyncio.gather(*fetches)

    assert [content(target.folder) for target in targets] == [content(good.folder)] * 2
    assert [target.old_is_whole for target in targets] == [True] * 2


async def test_a_source_that_stands_still_is_left_for_another(
    lasting: Owner, good: Pod, target: Target, reader: SegmentReader
) -> None:
    stopping = ActsAfter(reader, num_reads=4, act=lambda: lasting.send(signal.SIGSTOP))

    await target.fetch(stopping, good.offer, Offer(lasting.source, lasting.shard.pieces))

    whole = content(target.folder) == content(good.folder)
    lasting.send(signal.SIGCONT)
    await asyncio.sleep(0.3)
    assert whole
    assert content(target.folder) == content(good.folder)
    assert target.old_is_whole


async def test_where_the_only_source_stands_still_the_fetch_ends_at_its_deadline(
    lasting: Owner, target: Target, reader: SegmentReader
) -> None:
    lasting.send(signal.SIGSTOP)

    with pytest.raises(FetchFailed, match=r"could not be fetched within 0\.3 s"):
        await target.fetch(reader, Offer(lasting.source, lasting.shard.pieces), seconds=0.3)

    lasting.send(signal.SIGCONT)
    assert target.old_is_whole


async def test_the_address_of_an_engine_that_has_started_anew_gives_nothing(
    owners: list[Owner], good: Pod, target: Target, plain: HttpReader, tmp_path: Path
) -> None:
    first = owners.pop()
    remembered = await plain.address(first.source, GENERATION)
    assert remembered is not None
    first.process.kill()
    first.process.wait()
    address = first.source.url.removeprefix("http://").partition(":")[0]

    async with exporting_pod(tmp_path, first.source.pod, 1, mooncake_session("lends"), address) as again:
        reader = MooncakeReader(mooncake_session("reads"), Remembering(plain, again.source, remembered))
        fetched = await target.fetch(reader, good.offer, again.offer)

    assert fetched.sources == (good.source,)
    assert content(target.folder) == content(good.folder)
    assert target.old_is_whole


async def test_memory_that_is_another_engines_now_gives_nothing(good: Pod, plain: HttpReader) -> None:
    address = await plain.address(good.source, GENERATION)
    assert address is not None
    other = address.model_copy(update={"witness": "00" * 32})
    reader = MooncakeReader(mooncake_session("reads"), Remembering(plain, good.source, other))
    into = bytearray(64)

    with pytest.raises(SourceFailed, match=r"the address 127\.0\.0\.1:\d+ is an earlier engine's"):
        await reader.read(good.source, GENERATION, [Runs(0, 64)], memoryview(into))

    assert into == bytes(64)


async def test_a_source_that_cannot_be_read_one_sidedly_is_asked_by_http(
    good: Pod, target: Target, plain: HttpReader
) -> None:
    address = await plain.address(good.source, GENERATION)
    assert address is not None
    closed = address.model_copy(update={"session": "127.0.0.1:9"})

    await target.fetch(MooncakeReader(mooncake_session("reads"), Remembering(plain, good.source, closed)), good.offer)

    assert content(target.folder) == content(good.folder)


async def test_bytes_that_come_after_their_deadline_go_nowhere(
    good: Pod, plain: HttpReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "EXTENT_SECONDS", 0.05)
    session = mooncake_session("reads")
    late = asyncio.Event()
    loop = asyncio.get_running_loop()
    slow = SlowEngine(session.engine, lambda: loop.call_soon_threadsafe(late.set))
    reader = MooncakeReader(replace(session, engine=slow), plain)
    into = bytearray(64)

    with pytest.raises(SourceFailed, match=r"took more than 0\.1 s for a batch of 64 bytes"):
        await reader.read(good.source, GENERATION, [Runs(0, 64)], memoryview(into))

    async with asyncio.timeout(SOON):
        await late.wait()
    assert into == bytes(64)


async def test_large_batches_are_cut(
    good: Pod, target: Target, plain: HttpReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_sided, "COPY_BYTES", 16)
    monkeypatch.setattr(fetching, "EXTENT_SECONDS", SOON)

    await target.fetch(MooncakeReader(mooncake_session("reads"), plain), good.offer)

    assert content(target.folder) == content(good.folder)


def test_a_batch_that_is_too_large_is_not_even_tried() -> None:
    with pytest.raises(ValueError, match="1025 copies in a batch"):
        mooncake_session("reads").read("127.0.0.1:9", [Copy(0, 0, 1)] * (MOST_COPIES + 1))


async def test_from_a_source_that_lends_nothing_the_bytes_come_by_http(
    tmp_path: Path, target: Target, plain: HttpReader
) -> None:
    async with exporting_pod(tmp_path, "job-hybrid-2") as pod:
        await target.fetch(MooncakeReader(mooncake_session("reads"), plain), pod.offer)

    assert content(target.folder) == content(pod.folder)


async def test_what_is_lent_cannot_be_written(good: Pod, plain: HttpReader) -> None:
    address = await plain.address(good.source, GENERATION)
    assert address is not None
    stage = mooncake_session("reads").take_stage()
    assert stage is not None
    before = content(good.folder)

    status = mooncake_session("reads").engine.transfer_sync_write(  # type: ignore[attr-defined]
        address.session, stage.address, address.segment_address, 4096
    )

    assert status != 0
    assert content(good.folder) == before


def test_rdma_is_used_only_where_there_is_a_device(tmp_path: Path) -> None:
    (tmp_path / "one" / "mlx5_0").mkdir(parents=True)
    (tmp_path / "none").mkdir()

    assert [has_rdma(tmp_path / name) for name in ("one", "none", "nothing")] == [True, False, False]


@dataclass(slots=True)
class ActsAfter:
    """A reader in whose midst something happens: after so many reads."""

    reader: SegmentReader
    num_reads: int
    act: Callable[[], None]

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        self.num_reads -= 1
        if self.num_reads == 0:
            self.act()
        await self.reader.read(source, generation, runs, into)


class Remembering(HttpReader):
    """Holds one source's address to be what it was once."""

    def __init__(self, plain: HttpReader, source: Source, address: SegmentAddress) -> None:
        self._plain, self._source, self._remembered = plain, source, address

    async def address(self, source: Source, generation: int) -> SegmentAddress | None:
        return self._remembered if source == self._source else await self._plain.address(source, generation)

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        await self._plain.read(source, generation, runs, into)


@dataclass(slots=True)
class SlowEngine:
    """Mooncake with a network that brings every byte too late."""

    engine: TransferEngine
    when_done: Callable[[], object]

    def initialize(self, host: str, metadata: str, protocol: str, devices: str) -> int:
        return self.engine.initialize(host, metadata, protocol, devices)

    def get_rpc_port(self) -> int:
        return self.engine.get_rpc_port()

    def register_memory(self, address: int, num_bytes: int) -> int:
        return self.engine.register_memory(address, num_bytes)

    def unregister_memory(self, address: int) -> int:
        return self.engine.unregister_memory(address)

    def batch_transfer_sync_read(self, peer: str, into: list[int], addresses: list[int], num_bytes: list[int]) -> int:
        threading.Event().wait(0.5)
        status = self.engine.batch_transfer_sync_read(peer, into, addresses, num_bytes)
        self.when_done()
        return status
