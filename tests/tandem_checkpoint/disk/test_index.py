"""What a folder holds, and every way in which it may be broken: one line, with the file and the fix."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_checkpoint.architectures.config import PolicyFolderError
from tandem_checkpoint.disk.index import INDEX_FILE, MOST_HEADER_BYTES, SINGLE_FILE, read_index
from tests.tandem_checkpoint.disk.folders import shard_name, write_raw, write_shards, write_single

AGAIN = "download the folder again, or save the policy again with save_pretrained"
ONES = np.ones((2, 3), np.float32)
WHOLE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def refusal(folder: Path) -> str:
    """Return why a folder is refused."""
    with pytest.raises(PolicyFolderError) as refused:
        read_index(folder)
    return str(refused.value)


def read_or_refused(folder: Path) -> tuple[list[int], list[str]]:
    """Return where the tensors of a folder end, or why it is refused."""
    try:
        return [tensor.offset_bytes + tensor.num_bytes for tensor in read_index(folder).tensors.values()], []
    except PolicyFolderError as error:
        return [], [str(error)]


def test_a_single_file_tells_where_each_tensor_lies(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.float32)}
    index = read_index(write_single(tmp_path, tensors))

    tensor = index["b"]

    content = tensor.file.read_bytes()[tensor.offset_bytes : tensor.offset_bytes + tensor.num_bytes]
    assert (tensor.dtype, tensor.shape, tensor.num_bytes) == ("float32", (4,), 16)
    assert content == tensors["b"].tobytes()


def test_a_folder_of_shards_is_one_index(tmp_path: Path) -> None:
    index = read_index(write_shards(tmp_path, [{"a": ONES}, {"b": ONES, "c": ONES}]))

    assert {name: tensor.file.name for name, tensor in index.tensors.items()} == {
        "a": shard_name(1, 2),
        "b": shard_name(2, 2),
        "c": shard_name(2, 2),
    }


def test_a_hub_cache_of_links_is_a_folder_like_any_other(tmp_path: Path) -> None:
    blob = write_single(tmp_path / "blobs", {"a": ONES}) / SINGLE_FILE
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / SINGLE_FILE).symlink_to(blob)

    assert read_index(snapshot)["a"].shape == (2, 3)


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    index = read_index(write_single(tmp_path, {"a": ONES}))

    with pytest.raises(PolicyFolderError, match=r"lacks the tensor b; save the policy again with save_pretrained"):
        _ = index["b"]


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} holds no .safetensors file; save the policy with save_pretrained"


def test_shards_without_an_index_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, [{"a": ONES}, {"b": ONES}])
    (tmp_path / INDEX_FILE).unlink()

    assert (
        refusal(tmp_path) == f"{tmp_path} holds .safetensors files but neither {SINGLE_FILE} nor {INDEX_FILE}; {AGAIN}"
    )


def test_two_policies_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, [{"a": ONES}, {"b": ONES}])
    write_single(tmp_path, {"a": ONES})

    assert refusal(tmp_path) == f"{tmp_path} holds both {SINGLE_FILE} and {INDEX_FILE}; remove the one that is older"


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [{"a": ONES}, {"b": ONES}])
    (tmp_path / shard_name(2, 2)).unlink()

    assert refusal(tmp_path) == f"{tmp_path / shard_name(2, 2)} is missing, but {INDEX_FILE} names it; {AGAIN}"


def test_a_link_to_nothing_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / SINGLE_FILE).symlink_to(tmp_path / "gone")

    assert refusal(tmp_path) == f"{tmp_path / SINGLE_FILE} is missing; {AGAIN}"


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [{"a": ONES}, {"b": ONES}])
    index = {"weight_map": {"a": shard_name(1, 2), "b": shard_name(2, 2), "c": shard_name(2, 2)}}
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))

    assert refusal(tmp_path) == f"{tmp_path / shard_name(2, 2)} lacks c, which {INDEX_FILE} says is in it; {AGAIN}"


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, [{"a": ONES, "b": ONES}, {"a": ONES, "c": ONES}])

    assert refusal(tmp_path) == f"{tmp_path}: a is both in {shard_name(1, 2)} and {shard_name(2, 2)}; {AGAIN}"


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "sub/model.safetensors", "", 7])
def test_an_index_cannot_name_files_elsewhere(tmp_path: Path, shard: object) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": shard}}))

    assert refusal(tmp_path) == f"{tmp_path / INDEX_FILE} puts a into {shard!r}, which is no file name; {AGAIN}"


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_an_index_without_tensors_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX_FILE).write_text(content)

    assert refusal(tmp_path) == f"{tmp_path / INDEX_FILE} holds no weight_map; {AGAIN}"


@pytest.mark.parametrize(("content", "problem"), [("{", "is not JSON"), ("[]", "is no JSON object")])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / INDEX_FILE).write_text(content)

    assert refusal(tmp_path) == f"{tmp_path / INDEX_FILE} {problem}; {AGAIN}"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, make: object) -> None:
    make(tmp_path / SINGLE_FILE)  # type: ignore[operator]

    assert refusal(tmp_path) == f"{tmp_path / SINGLE_FILE} is not a regular file; {AGAIN}"


def test_a_file_that_ends_in_its_header_is_cut_short(tmp_path: Path) -> None:
    path = write_single(tmp_path, {"a": ONES}) / SINGLE_FILE
    os.truncate(path, 20)

    assert refusal(tmp_path) == f"{path} is cut short: it ends at byte 20, within its header; {AGAIN}"


def test_a_file_that_ends_in_its_data_is_cut_short(tmp_path: Path) -> None:
    path = write_single(tmp_path, {"a": ONES}) / SINGLE_FILE
    size = path.stat().st_size
    os.truncate(path, size - 1)

    assert refusal(tmp_path) == f"{path} is cut short: it has {size - 1} bytes, its header speaks of {size}; {AGAIN}"


def test_a_header_too_long_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / SINGLE_FILE
    path.write_bytes((MOST_HEADER_BYTES + 1).to_bytes(8, "little"))

    assert refusal(tmp_path) == (
        f"{path} has a header of {MOST_HEADER_BYTES + 1} bytes, more than {MOST_HEADER_BYTES}: it is no safetensors "
        f"file; {AGAIN}"
    )


@pytest.mark.parametrize(
    ("header", "num_bytes", "problem"),
    [
        ({"a": WHOLE}, 9, "has 1 bytes more than its header speaks of"),
        ({"a": WHOLE, "b": WHOLE}, 8, "b overlaps another tensor"),
        ({"a": {**WHOLE, "data_offsets": [4, 12]}}, 12, "4 bytes before a belong to no tensor"),
        ({"a": {**WHOLE, "data_offsets": [0, 4]}}, 4, "gives a 4 bytes, but F32 (2,) has 8"),
        ({"a": {**WHOLE, "data_offsets": [8, 0]}}, 8, "gives a -8 bytes, but F32 (2,) has 8"),
        ({"a": {**WHOLE, "data_offsets": [-8, 0]}}, 8, "gives a offsets that are none"),
        ({"a": {**WHOLE, "data_offsets": [0]}}, 8, "gives a offsets that are none"),
        ({"a": {**WHOLE, "data_offsets": [0, 8.0]}}, 8, "gives a offsets that are none"),
        ({"a": {**WHOLE, "shape": [-2]}}, 8, "gives a a shape that is none"),
        ({"a": {**WHOLE, "shape": [True, 2]}}, 8, "gives a a shape that is none"),
        ({"a": {**WHOLE, "shape": [1] * 17}}, 8, "gives a a shape that is none"),
        ({"a": {**WHOLE, "shape": "2"}}, 8, "gives a a shape that is none"),
        ({"a": []}, 0, "says nothing of a's format and shape"),
        ([], 0, "has a header that is no JSON object"),
        (b"{", 0, "has a header that is not JSON"),
        (b"\xff", 0, "has a header that is not JSON"),
        (b"[" * 100_000, 0, "has a header that is not JSON"),
        (b'{"a": {}, "a": {}}', 0, "names a twice"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    tmp_path: Path, header: object, num_bytes: int, problem: str
) -> None:
    write_raw(tmp_path, header, bytes(num_bytes))

    assert refusal(tmp_path) == f"{tmp_path / SINGLE_FILE} {problem}; {AGAIN}"


def test_a_number_format_that_is_not_known_is_named(tmp_path: Path) -> None:
    write_raw(tmp_path, {"a": {**WHOLE, "dtype": "F4"}}, bytes(8))

    assert refusal(tmp_path) == (
        f"{tmp_path / SINGLE_FILE} holds a as F4, a number format that is not known here; convert it to BF16 or F32"
    )


@given(at=st.integers(0, 150), value=st.integers(0, 255))
def test_a_header_with_a_wrong_byte_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    folder = write_single(tmp_path_factory.mktemp("flip"), {"a": ONES, "b.weight": ONES})
    content = bytearray((folder / SINGLE_FILE).read_bytes())
    content[at] = value
    (folder / SINGLE_FILE).write_bytes(content)

    ends, refusals = read_or_refused(folder)

    assert all(end <= len(content) for end in ends)
    assert "\n" not in "".join(refusals)


@given(cut=st.integers(1, 300))
def test_a_file_cut_short_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = write_single(tmp_path_factory.mktemp("cut"), {"a": ONES, "b.weight": ONES})
    path = folder / SINGLE_FILE
    os.truncate(path, max(0, path.stat().st_size - cut))

    assert "is cut short" in refusal(folder)
