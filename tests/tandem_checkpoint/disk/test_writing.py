"""Folders written by many ranks at once: whole, as any reader of Hugging Face folders takes them, or not at all."""

import errno
import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from tandem_api.weights import TensorInfo
from tandem_checkpoint.disk.coverage import Box, first_uncovered
from tandem_checkpoint.disk.folder_plan import FolderPlan, plan_folder
from tandem_checkpoint.disk.index import INDEX_FILE, SINGLE_FILE, read_index
from tandem_checkpoint.disk.memory_box import MemoryBox
from tandem_checkpoint.disk.reading import FolderReader
from tandem_checkpoint.disk.replacing import aside_of
from tandem_checkpoint.disk.writing import FolderIncomplete, FolderWriter, commit, prepare
from tests.tandem_checkpoint.disk.folders import boxes, formats, memory_box_of, part_of, partitions, random_tensor

NUM_WRITERS = 3
SHAPES = {"embed": (64, 16), "down": (32, 48), "norm": (16,)}
TENSORS = {name: random_tensor(shape, "float32", seed) for seed, (name, shape) in enumerate(SHAPES.items())}
PLAN = plan_folder([TensorInfo(name=name, dtype="float32", shape=shape) for name, shape in SHAPES.items()], 5000)
SHARES = {
    "rank-0": (Box("embed", (0, 0), (32, 16)), Box("down", (0, 0), (32, 24)), Box("norm", (0,), (16,))),
    "rank-1": (Box("embed", (32, 0), (64, 16)), Box("down", (0, 24), (32, 48))),
}
"""What two tensor-parallel ranks hold: rows of one tensor, columns of another."""


def write_share(folder: Path, plan: FolderPlan, name: str, share: Sequence[Box], tensors: Mapping[str, Any]) -> None:
    with FolderWriter(folder, plan, name, num_threads=2) as writer:
        writer.write(memory_box_of(tensors[box.tensor], box) for box in share)


def write_shares(
    folder: Path, plan: FolderPlan, shares: Mapping[str, Sequence[Box]], tensors: Mapping[str, Any]
) -> None:
    """Write what each rank has, one after the other."""
    for name, share in shares.items():
        write_share(folder, plan, name, share, tensors)


def write_at_once(folder: Path) -> None:
    """Write what each rank has, in a process each."""
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=write_share, args=(folder, PLAN, name, share, TENSORS)) for name, share in SHARES.items()
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)


def write_and_fail(folder: Path) -> None:
    """Write everything as one rank, which then fails."""
    with FolderWriter(folder, PLAN, "rank-0") as writer:
        writer.write(memory_box_of(TENSORS[box.tensor], box) for share in SHARES.values() for box in share)
        raise KeyboardInterrupt


def save(folder: Path, origin: Path, shares: Mapping[str, Sequence[Box]] = SHARES) -> int:
    """Write the folder, rank after rank; return its size."""
    prepare(folder, PLAN, origin)
    write_shares(folder, PLAN, shares, TENSORS)
    return commit(folder, PLAN, [*shares])


def read_all(folder: Path) -> dict[str, NDArray[Any]]:
    """Return every tensor of a folder as the bits of its items."""
    index = read_index(folder)
    tensors = {name: np.zeros(tensor.shape, f"u{tensor.item_bytes}") for name, tensor in index.tensors.items()}
    with FolderReader(index) as reader:
        reader.read(
            memory_box_of(tensor, Box(name, (0,) * tensor.ndim, tensor.shape)) for name, tensor in tensors.items()
        )
    return tensors


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("[]")
    (folder / "model.safetensors").write_text("weights of the initial policy")
    return folder


def test_what_ranks_write_is_one_folder_for_the_library(tmp_path: Path, origin: Path) -> None:
    folder = tmp_path / "policy"

    num_bytes = save(folder, origin)

    files = [folder / file.name for file in PLAN.files]
    loaded = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert {name: tensor.tobytes() for name, tensor in loaded.items()} == {
        name: tensor.tobytes() for name, tensor in TENSORS.items()
    }
    assert num_bytes == sum(file.stat().st_size for file in files)
    with safe_open(files[0], "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_the_index_is_as_transformers_writes_it(tmp_path: Path, origin: Path) -> None:
    save(tmp_path / "policy", origin)

    assert (tmp_path / "policy" / INDEX_FILE).read_text() == json.dumps(
        {
            "metadata": {"total_parameters": 2576, "total_size": 10304},
            "weight_map": {
                "down": "model-00002-of-00003.safetensors",
                "embed": "model-00001-of-00003.safetensors",
                "norm": "model-00003-of-00003.safetensors",
            },
        },
        indent=2,
    ) + "\n"


def test_the_folder_has_configuration_and_tokenizer_and_nothing_else(tmp_path: Path, origin: Path) -> None:
    save(tmp_path / "policy", origin)

    assert {path.name for path in (tmp_path / "policy").iterdir()} == {
        "config.json",
        "tokenizer.json",
        INDEX_FILE,
        *(file.name for file in PLAN.files),
    }
    assert {path.name for path in tmp_path.iterdir()} == {"origin", "policy"}


def test_ranks_write_at_once(tmp_path: Path, origin: Path) -> None:
    folder = tmp_path / "policy"
    prepare(folder, PLAN, origin)

    write_at_once(folder)
    commit(folder, PLAN, [*SHARES])

    assert {name: tensor.tobytes() for name, tensor in read_all(folder).items()} == {
        name: tensor.tobytes() for name, tensor in TENSORS.items()
    }


@settings(max_examples=40)
@given(data=st.data())
def test_what_any_layout_writes_any_other_reads(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("any") / "policy"
    described = data.draw(formats())
    tensors = {name: random_tensor(shape, dtype, 1) for name, (dtype, shape) in described.items()}
    plan = plan_folder(
        [TensorInfo(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in described.items()],
        data.draw(st.integers(1, 3000)),
    )
    parts = [box for name, (_, shape) in described.items() for box in data.draw(partitions(name, shape))]
    owners = data.draw(st.lists(st.integers(0, NUM_WRITERS - 1), min_size=len(parts), max_size=len(parts)))
    shares = {
        f"{number}": [box for box, owner in zip(parts, owners, strict=True) if owner == number]
        for number in range(NUM_WRITERS)
    }

    prepare(folder, plan, folder)
    write_shares(folder, plan, shares, tensors)
    commit(folder, plan, [*shares])

    name = data.draw(st.sampled_from(sorted(tensors)))
    box = data.draw(boxes(name, tensors[name].shape))
    memory = np.zeros_like(part_of(tensors[name], box))
    index = read_index(folder)
    with FolderReader(index, num_threads=1) as reader:
        reader.read([MemoryBox(name, box.start, box.stop, memory)])
    np.testing.assert_array_equal(memory, part_of(tensors[name], box))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in index.tensors.items()} == described


def test_a_byte_that_nobody_wrote_is_named_and_the_older_folder_stays(tmp_path: Path, origin: Path) -> None:
    folder = tmp_path / "policy"
    save(folder, origin)
    shares = {**SHARES, "rank-1": (Box("embed", (32, 0), (64, 16)), Box("down", (0, 24), (31, 48)))}

    with pytest.raises(FolderIncomplete) as refused:
        save(folder, origin, shares)

    assert str(refused.value) == f"{folder}: nobody has written down[31:32, 24:48]; save again"
    assert read_all(folder).keys() == TENSORS.keys()


def test_a_rank_that_has_not_finished_is_named(tmp_path: Path, origin: Path) -> None:
    folder = tmp_path / "policy"
    prepare(folder, PLAN, origin)
    write_share(folder, PLAN, "rank-0", SHARES["rank-0"], TENSORS)

    with pytest.raises(FolderIncomplete, match=r"policy: rank-1 has not written its part; save again"):
        commit(folder, PLAN, ["rank-0", "rank-1"])


def test_a_rank_that_failed_leaves_no_receipt(tmp_path: Path, origin: Path) -> None:
    folder = tmp_path / "policy"
    prepare(folder, PLAN, origin)

    with pytest.raises(KeyboardInterrupt):
        write_and_fail(folder)

    with pytest.raises(FolderIncomplete, match="rank-0 has not written its part"):
        commit(folder, PLAN, ["rank-0"])


def test_files_cut_meanwhile_are_refused(tmp_path: Path, origin: Path) -> None:
    folder = tmp_path / "policy"
    prepare(folder, PLAN, origin)
    write_shares(folder, PLAN, SHARES, TENSORS)
    os.truncate(aside_of(folder) / PLAN.files[0].name, 100)

    with pytest.raises(FolderIncomplete, match="has changed its size while it was written; save again"):
        commit(folder, PLAN, [*SHARES])


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path: Path, origin: Path) -> None:
    folder = tmp_path / "policy"
    prepare(folder, PLAN, origin)
    write_share(folder, PLAN, "rank-0", SHARES["rank-0"], TENSORS)

    save(folder, origin)

    assert {path.name for path in tmp_path.iterdir()} == {"origin", "policy"}


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path, origin: Path) -> None:
    folder = tmp_path / "policy"
    save(folder, origin)
    folder.rename(tmp_path / ".policy.old")

    prepare(folder, PLAN, origin)

    assert read_all(folder).keys() == TENSORS.keys()


@pytest.mark.parametrize("number", [0, errno.EINVAL])
def test_an_older_folder_is_replaced_as_a_whole(
    tmp_path: Path, origin: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = tmp_path / "policy"
    save(folder, origin)
    (folder / "older").touch()
    if number:  # as on a file system whose names cannot change places
        monkeypatch.setattr("tandem_checkpoint.disk.replacing._exchange", lambda *_: False)

    save(folder, origin)

    assert not (folder / "older").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"origin", "policy"}


def test_writers_of_different_plans_do_not_meet(tmp_path: Path, origin: Path) -> None:
    other = plan_folder([TensorInfo(name="embed", dtype="float32", shape=(64, 16))])
    prepare(tmp_path / "policy", PLAN, origin)

    with pytest.raises(FolderIncomplete, match="was prepared for other tensors; save again with one version"):
        FolderWriter(tmp_path / "policy", other, "rank-0")


def test_a_writer_wants_a_prepared_folder(tmp_path: Path) -> None:
    with pytest.raises(FolderIncomplete, match="policy was not prepared for writing; save again"):
        FolderWriter(tmp_path / "policy", PLAN, "rank-0")


def test_a_full_disk_is_met_before_anything_is_written(tmp_path: Path, origin: Path) -> None:
    endless = plan_folder([TensorInfo(name="w", dtype="float32", shape=(1 << 44,))])

    with pytest.raises(OSError, match=r"No space left on device|File too large"):
        prepare(tmp_path / "policy", endless, origin)

    assert {path.name for path in tmp_path.iterdir()} == {"origin"}


def test_a_small_policy_is_one_file_without_an_index() -> None:
    plan = plan_folder(
        [TensorInfo(name="a", dtype="bfloat16", shape=(3,)), TensorInfo(name="b", dtype="float32", shape=())]
    )

    assert ([file.name for file in plan.files], plan.index) == ([SINGLE_FILE], None)
    assert [tensor.name for tensor in plan.files[0].tensors] == ["b", "a"]
    assert plan.tensors["b"].offset_bytes % 8 == 0


def test_a_tensor_larger_than_a_file_has_its_own() -> None:
    shapes = {"a": (1,), "b": (100,), "c": (2,), "d": (2,)}
    plan = plan_folder([TensorInfo(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()], 16)

    assert [[tensor.name for tensor in file.tensors] for file in plan.files] == [["a"], ["b"], ["c", "d"]]


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two tensors are called a"):
        plan_folder([TensorInfo(name="a", dtype="float32", shape=())] * 2)


@given(data=st.data())
def test_what_is_covered_is_known_to_the_item(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=3)))
    some = data.draw(st.lists(boxes("w", shape), max_size=5))
    reference = np.zeros(shape, bool)
    for box in some:
        part_of(reference, box)[...] = True

    missing = first_uncovered({"w": shape}, some)

    assert (missing is None) == reference.all()
    assert missing is None or not part_of(reference, missing).any()
