"""The bytes of a pod's segments over HTTP: exactly those that were asked for, to those who have the token."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tandem_api.engine import HeldWeights, ProblemDetails
from tandem_api.weights import Shard
from tandem_checkpoint.segments.store import segment_name
from tandem_checkpoint.transfer.exports import CHUNK_BYTES, Exports, NotHeld, chunks
from tests.tandem_checkpoint.jobs import TOKEN
from tests.tandem_checkpoint.transfer.pods import GENERATION, LAYOUT, Pod, content, export, exporting_pod

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


async def test_a_bad_range_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.get(PATH, headers={"Range": f"bytes=0-{LAYOUT.num_bytes}"})

    assert (response.status_code, problem(response).title) == (416, "BadRange")


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


def held(folder: Path) -> Exports:
    """Return what a pod holds that has exported one generation."""
    shard: Shard = export(folder)
    exports = Exports(folder)
    exports.add(GENERATION, [shard])
    return exports
