"""The bytes of a pod's segments over HTTP: exactly those that were asked for, to those who have the token."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tandem_api.engine import (
    HeldWeights,
    MemberPhase,
    PieceMismatch,
    ProblemDetails,
    VerifiedWeights,
    WeightsList,
    WeightsSummary,
)
from tandem_api.registry import MemberState, MemberStatus
from tandem_api.weights import Piece, Shard
from tandem_checkpoint.http import build_app
from tandem_checkpoint.segments.manifest import checksum
from tandem_checkpoint.segments.store import segment_name
from tandem_checkpoint.transfer import exports
from tandem_checkpoint.transfer import fetch as fetching
from tandem_checkpoint.transfer.exports import CHUNK_BYTES, Exports, NotHeld, chunks
from tests.tandem_checkpoint.api_member import PHASE, asking
from tests.tandem_checkpoint.jobs import TOKEN
from tests.tandem_checkpoint.transfer.pods import GENERATION, LAYOUT, PORT, Pod, content, export, exporting_pod, spoil

SOON = 10.0
PATH = f"/v1/weights/{GENERATION}/segment"


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    async with exporting_pod(tmp_path, "job-hybrid-0") as pod:
        yield pod


@pytest.fixture
async def client(pod: Pod) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=pod.source.url, headers=headers, trust_env=False) as client:
        yield client


def problem(response: httpx.Response) -> ProblemDetails:
    assert response.headers["content-type"] == "application/problem+json"
    return ProblemDetails.model_validate_json(response.content)


async def test_the_shards_of_a_generation_are_those_that_were_registered(pod: Pod, client: httpx.AsyncClient) -> None:
    response = await client.get(f"/v1/weights/{GENERATION}")

    assert HeldWeights.model_validate_json(response.content) == HeldWeights(
        generation=GENERATION, segment_bytes=LAYOUT.num_bytes, shards=(pod.shard,)
    )


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 4097), (4095, 4097), (0, LAYOUT.num_bytes)])
async def test_a_range_answers_exactly_its_bytes(pod: Pod, client: httpx.AsyncClient, start: int, stop: int) -> None:
    response = await client.get(PATH, headers={"Range": f"bytes={start}-{stop - 1}"})

    assert response.status_code == 206
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{LAYOUT.num_bytes}"
    assert response.content == content(pod.folder)[start:stop]


async def test_without_a_range_the_whole_segment_is_answered(pod: Pod, client: httpx.AsyncClient) -> None:
    response = await client.get(PATH)

    assert (response.status_code, response.content) == (200, content(pod.folder))


async def test_one_reader_too_many_is_refused_until_another_has_ended(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "MOST_STREAMS", 0)
    refused = await client.get(PATH)
    monkeypatch.setattr(exports, "MOST_STREAMS", 1)
    first, second = await client.get(PATH), await client.get(PATH)

    assert (refused.status_code, problem(refused).type) == (503, "urn:tandem:problem:streams-taken")
    assert (first.status_code, second.status_code) == (200, 200)


async def test_a_reader_that_stands_still_loses_its_stream_to_another(
    pod: Pod, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "MOST_STREAMS", 1)
    monkeypatch.setattr(fetching, "EXTENT_SECONDS", 0.3)
    monkeypatch.setattr(fetching, "LEAST_BYTES_PER_SECOND", 1 << 40)
    path = hold_more_than_sockets_take(pod)

    async with asyncio.timeout(SOON):
        _, still = await asyncio.open_connection(pod.address, PORT, limit=1)
        still.write(f"GET {path} HTTP/1.1\r\nHost: pod\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        await answer_of(client, 503)
        await answer_of(client, 200)

    still.close()


def hold_more_than_sockets_take(pod: Pod) -> str:
    """Have a pod hold a generation of nothing but padding; return the path of its segment."""
    shard = pod.shard.model_copy(update={"segment": segment_name(GENERATION + 1), "segment_bytes": 64 << 20})
    with (pod.folder / shard.segment).open("wb") as file:
        file.truncate(shard.segment_bytes)
    pod.exports.add(GENERATION + 1, [shard])
    return f"/v1/weights/{GENERATION + 1}/segment"


async def answer_of(client: httpx.AsyncClient, status: int) -> None:
    """Ask for a segment until the answer has a status."""
    while (await client.get(PATH)).status_code != status:  # noqa: ASYNC110 - the engine tells nobody
        await asyncio.sleep(0.02)


async def test_a_bad_range_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.get(PATH, headers={"Range": f"bytes=0-{LAYOUT.num_bytes}"})

    assert (response.status_code, problem(response).type) == (416, "urn:tandem:problem:bad-range")


async def test_the_list_tells_what_the_segments_hold(pod: Pod, client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/weights")

    assert WeightsList.model_validate_json(response.content).weights == (summary(pod),)


@pytest.mark.parametrize(("published", "is_published"), [(None, False), (2, False), (3, True), (4, True)])
async def test_the_list_tells_what_is_published(tmp_path: Path, published: int | None, is_published: bool) -> None:
    member = PublishingMember(published)
    app = build_app(TOKEN, member.status, None, held(tmp_path), phase=member)

    async with asking(app) as client:
        weights = WeightsList.model_validate_json((await client.get("/v1/weights")).content).weights

    assert [item.is_published for item in weights] == [is_published]


async def test_a_generation_as_it_was_registered_is_intact(pod: Pod, client: httpx.AsyncClient) -> None:
    response = await client.post(f"/v1/weights/{GENERATION}/verify")

    verified = VerifiedWeights.model_validate_json(response.content)
    assert (verified.is_intact, verified.mismatches) == (True, ())
    assert (verified.num_pieces, verified.num_bytes) == (len(pod.shard.pieces), summary(pod).num_bytes)


async def test_each_piece_that_has_changed_is_named(pod: Pod, client: httpx.AsyncClient) -> None:
    first, *_, last = pod.shard.pieces
    spoil(pod.folder, first.offset_bytes)
    spoil(pod.folder, last.offset_bytes + last.num_bytes - 1)

    response = await client.post(f"/v1/weights/{GENERATION}/verify")

    verified = VerifiedWeights.model_validate_json(response.content)
    assert not verified.is_intact
    assert [found.tensor for found in verified.mismatches] == [first.tensor, last.tensor]
    assert verified.mismatches[0] == mismatch(pod, first)


async def test_a_verdict_on_a_segment_that_is_written_meanwhile_is_none(tmp_path: Path) -> None:
    exports = held(tmp_path)
    verifying = asyncio.create_task(exports.verify(GENERATION))
    await asyncio.sleep(0)

    exports.forget(GENERATION)

    with pytest.raises(NotHeld, match="was overwritten while it was read"):
        await verifying


@pytest.mark.parametrize("path", ["/v1/weights/2", "/v1/weights/2/segment"])
async def test_a_generation_that_is_not_held_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)

    assert response.status_code == 404
    assert problem(response).detail == "generation 2 is not in this pod's segments; held: 3"


@pytest.mark.parametrize("path", [f"/v1/weights/{GENERATION}", PATH])
async def test_without_the_token_no_weights_are_given(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path, headers={"Authorization": "Bearer other"})

    assert response.status_code == 401


async def test_a_generation_is_not_offered_once_its_segment_is_written_anew(
    pod: Pod, client: httpx.AsyncClient
) -> None:
    pod.exports.forget(GENERATION + 2)

    response = await client.get(PATH)

    assert response.status_code == 404


def test_the_other_segment_may_be_written_meanwhile(tmp_path: Path) -> None:
    exports = held(tmp_path)

    exports.forget(GENERATION + 1)

    assert exports.get(GENERATION).path == tmp_path / segment_name(GENERATION)


def test_a_generation_that_is_exported_again_is_offered_with_its_new_checksums(tmp_path: Path) -> None:
    exports = held(tmp_path)
    again = export(tmp_path, seed=2)

    exports.forget(GENERATION)
    with pytest.raises(NotHeld, match="held: none"):
        exports.get(GENERATION)
    exports.add(GENERATION, [again])

    assert exports.get(GENERATION).weights.shards == (again,)


async def test_a_long_range_is_sent_in_chunks(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(bytes(range(256)) * (3 * CHUNK_BYTES // 256))

    sent = [chunk async for chunk in chunks(path, 5, 2 * CHUNK_BYTES + 9)]

    assert [len(chunk) for chunk in sent] == [CHUNK_BYTES, CHUNK_BYTES, 4]
    assert b"".join(sent) == path.read_bytes()[5 : 2 * CHUNK_BYTES + 9]


def summary(pod: Pod) -> WeightsSummary:
    """Return what the list says of the only generation of a pod."""
    return WeightsSummary(
        generation=GENERATION,
        segment=segment_name(GENERATION),
        segment_bytes=LAYOUT.num_bytes,
        num_bytes=sum(piece.num_bytes for piece in pod.shard.pieces),
        num_shards=1,
        is_published=False,
    )


def mismatch(pod: Pod, piece: Piece) -> PieceMismatch:
    """Return what is said of a piece whose bytes have changed."""
    stop = piece.offset_bytes + piece.num_bytes
    return PieceMismatch(
        tensor=piece.tensor,
        start=piece.start,
        stop=piece.stop,
        offset_bytes=piece.offset_bytes,
        num_bytes=piece.num_bytes,
        registered_xxh3=piece.xxh3,
        found_xxh3=checksum(content(pod.folder)[piece.offset_bytes : stop]),
    )


@dataclass(frozen=True, slots=True)
class PublishingMember:
    """A member that knows what the master has published."""

    published: int | None

    def status(self) -> MemberStatus:
        return MemberStatus(incarnation="a", epoch=1, state=MemberState.IDLE)

    def phase(self) -> MemberPhase:
        return PHASE.model_copy(update={"published": self.published})


def held(folder: Path) -> Exports:
    """Return what a pod holds that has exported one generation."""
    shard: Shard = export(folder)
    exports = Exports(folder)
    exports.add(GENERATION, [shard])
    return exports
