"""What a Hugging Face folder holds: where each tensor's bytes lie. Only headers are read, and nothing is executed."""

import json
import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import NoReturn, TypeGuard

from tandem_checkpoint.architectures.config import PolicyFolderError
from tandem_checkpoint.disk.formats import DTYPES, ITEM_BYTES

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
LENGTH_BYTES = 8
"""A file begins with the length of its header, little-endian."""
MOST_HEADER_BYTES = 100_000_000
"""The safetensors library takes no longer header either."""
MOST_AXES = 16
NUM_THREADS = 16
"""Headers read at once: each waits for the storage, not for a processor."""
AGAIN = "download the folder again, or save the policy again with save_pretrained"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a folder."""

    name: str
    file: Path
    dtype: str
    """torch's name."""
    shape: tuple[int, ...]
    offset_bytes: int
    """Place of its first byte in the file."""

    @property
    def item_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]

    @property
    def num_bytes(self) -> int:
        return self.item_bytes * prod(self.shape)


@dataclass(frozen=True, slots=True)
class FolderIndex:
    """All tensors of a folder by name, in the order of its files."""

    folder: Path
    tensors: Mapping[str, StoredTensor]

    def __getitem__(self, name: str) -> StoredTensor:
        """Return a tensor; raise PolicyFolderError where there is none of this name."""
        try:
            return self.tensors[name]
        except KeyError:
            raise PolicyFolderError(
                f"{self.folder} lacks the tensor {name}; save the policy again with save_pretrained"
            ) from None


def read_index(folder: Path) -> FolderIndex:
    """Return what the folder's safetensors files hold.

    Raises: PolicyFolderError, one line with file and fix, where a file is missing, cut short, not regular or not whole.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if _is_there(single) and _is_there(index):
        raise PolicyFolderError(f"{folder} holds both {SINGLE_FILE} and {INDEX_FILE}; remove the one that is older")
    if _is_there(single):
        return FolderIndex(folder, {tensor.name: tensor for tensor in read_header(single)})
    if _is_there(index):
        return _read_shards(folder, _read_weight_map(index))
    if any(folder.glob("*.safetensors")):
        raise PolicyFolderError(
            f"{folder} holds .safetensors files but neither {SINGLE_FILE} nor {INDEX_FILE}; {AGAIN}"
        )
    raise PolicyFolderError(f"{folder} holds no .safetensors file; save the policy with save_pretrained")


def read_header(path: Path) -> tuple[StoredTensor, ...]:
    """Return the tensors of one safetensors file in the order of their bytes; raise PolicyFolderError where it is not
    whole."""
    content, num_bytes = _read_head(path)
    header = _parse_object(path, content, "has a header that is")
    header.pop("__metadata__", None)
    places = sorted((_place_of(path, name, entry) for name, entry in header.items()), key=lambda place: place[:2])
    start_of_data = LENGTH_BYTES + len(content)
    end = 0
    for begin, stop, tensor in places:
        if begin < end:
            _refuse(path, f"{tensor.name} overlaps another tensor")
        if begin > end:
            _refuse(path, f"{begin - end} bytes before {tensor.name} belong to no tensor")
        end = stop
    if start_of_data + end > num_bytes:
        _refuse(path, f"is cut short: it has {num_bytes} bytes, its header speaks of {start_of_data + end}")
    if start_of_data + end < num_bytes:
        _refuse(path, f"has {num_bytes - start_of_data - end} bytes more than its header speaks of")
    return tuple(
        StoredTensor(tensor.name, path, tensor.dtype, tensor.shape, start_of_data + begin)
        for begin, _, tensor in places
    )


def open_regular(path: Path) -> int:
    """Return a descriptor for reading; raise PolicyFolderError for what is missing, unreadable or no regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its writer
    except FileNotFoundError:
        _refuse(path, "is missing")
    except OSError as error:
        raise PolicyFolderError(f"{path} cannot be read ({error.strerror}); mend the folder") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        _refuse(path, "is not a regular file")
    return descriptor


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _read_shards(folder: Path, weight_map: Mapping[str, str]) -> FolderIndex:
    """Return the tensors that an index names. Those of a shard that it does not name are nobody's."""
    shards = sorted(set(weight_map.values()))
    with ThreadPoolExecutor(min(NUM_THREADS, len(shards)), "headers") as threads:
        headers = dict(zip(shards, threads.map(partial(_read_shard, folder), shards), strict=True))
    _refuse_duplicates(folder, headers)
    tensors = {tensor.name: tensor for header in headers.values() for tensor in header if tensor.name in weight_map}
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].file.name != shard:
            raise PolicyFolderError(f"{folder / shard} lacks {name}, which {INDEX_FILE} says is in it; {AGAIN}")
    return FolderIndex(folder, tensors)


def _read_shard(folder: Path, shard: str) -> tuple[StoredTensor, ...]:
    if not _is_there(folder / shard):
        raise PolicyFolderError(f"{folder / shard} is missing, but {INDEX_FILE} names it; {AGAIN}")
    return read_header(folder / shard)


def _refuse_duplicates(folder: Path, headers: Mapping[str, Iterable[StoredTensor]]) -> None:
    seen: dict[str, str] = {}
    for shard, header in headers.items():
        for tensor in header:
            if tensor.name in seen:
                raise PolicyFolderError(f"{folder}: {tensor.name} is both in {seen[tensor.name]} and {shard}; {AGAIN}")
            seen[tensor.name] = shard


def _read_weight_map(path: Path) -> dict[str, str]:
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(MOST_HEADER_BYTES + 1)
    if len(content) > MOST_HEADER_BYTES:
        _refuse(path, f"is longer than {MOST_HEADER_BYTES} bytes")
    weight_map = _parse_object(path, content, "is").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        _refuse(path, "holds no weight_map")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or shard in ("", "..") or Path(shard).name != shard or "\0" in shard:
            _refuse(path, f"puts {name} into {shard!r}, which is no file name")
    return weight_map


def _read_head(path: Path) -> tuple[bytes, int]:
    """Return the header's text and the size of the file."""
    descriptor = open_regular(path)
    try:
        num_bytes = os.fstat(descriptor).st_size
        length = int.from_bytes(_read_exactly(descriptor, LENGTH_BYTES, 0, path), "little")
        if length > MOST_HEADER_BYTES:
            _refuse(path, f"has a header of {length} bytes, more than {MOST_HEADER_BYTES}: it is no safetensors file")
        return _read_exactly(descriptor, length, LENGTH_BYTES, path), num_bytes
    finally:
        os.close(descriptor)


def _read_exactly(descriptor: int, num_bytes: int, offset: int, path: Path) -> bytes:
    content = b""
    while len(content) < num_bytes:
        try:
            more = os.pread(descriptor, num_bytes - len(content), offset + len(content))
        except OSError as error:
            raise PolicyFolderError(f"{path} cannot be read ({error.strerror}); mend the folder") from None
        if not more:
            _refuse(path, f"is cut short: it ends at byte {offset + len(content)}, within its header")
        content += more
    return content


def _parse_object(path: Path, content: bytes, verb: str) -> dict[str, object]:
    """Return a JSON object. Args: verb: what goes before `not JSON` in the refusal."""
    try:
        parsed = json.loads(content.decode("utf-8"), object_pairs_hook=partial(_without_duplicates, path))
    except (ValueError, RecursionError):
        _refuse(path, f"{verb} not JSON")
    if not isinstance(parsed, dict):
        _refuse(path, f"{verb} no JSON object")
    return parsed


def _without_duplicates(path: Path, pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        _refuse(path, f"names {next(name for name in found if names.count(name) > 1)} twice")
    return found


def _place_of(path: Path, name: str, entry: object) -> tuple[int, int, StoredTensor]:
    """Return where a tensor begins and stops in the data, and the tensor."""
    if not isinstance(entry, dict):
        _refuse(path, f"says nothing of {name}'s format and shape")
    code, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(code, str) or code not in DTYPES:
        _refuse(path, f"holds {name} as {code}, a number format that is not known here", "convert it to BF16 or F32")
    if not _are_lengths(shape) or len(shape) > MOST_AXES:
        _refuse(path, f"gives {name} a shape that is none")
    if not _are_lengths(offsets) or len(offsets) != 2:
        _refuse(path, f"gives {name} offsets that are none")
    tensor = StoredTensor(name, path, DTYPES[code], tuple(shape), offsets[0])
    if offsets[1] - offsets[0] != tensor.num_bytes:
        _refuse(path, f"gives {name} {offsets[1] - offsets[0]} bytes, but {code} {tensor.shape} has {tensor.num_bytes}")
    return offsets[0], offsets[1], tensor


def _are_lengths(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _refuse(path: Path, problem: str, fix: str = AGAIN) -> NoReturn:
    raise PolicyFolderError(f"{path} {problem}; {fix}")
