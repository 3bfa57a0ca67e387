"""Trainers' ranks and one folder: each reads and writes its own strips, whatever the split."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tandem_api.weights import TensorInfo
from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.disk.coverage import Box
from tandem_checkpoint.disk.folder_plan import FolderPlan, plan_folder
from tandem_checkpoint.disk.index import FolderIndex, read_index
from tandem_checkpoint.disk.memory_box import MemoryBox
from tandem_checkpoint.disk.reading import PAGE_BYTES, FolderReader
from tandem_checkpoint.disk.writing import FolderWriter, commit, prepare
from tandem_checkpoint.layouts.place import TrainerPlace, TrainerSplit
from tandem_checkpoint.layouts.strip import LocalParameter, Strip
from tandem_checkpoint.layouts.trainer import trainer_layout
from tests.tandem_checkpoint.disk.counting import CountedReads, pages_of
from tests.tandem_checkpoint.disk.folders import random_tensor
from tests.tandem_checkpoint.policies import SMALL

POLICY = replace(SMALL, num_layers=4, hidden=1024, intermediate=4096, num_heads=16, head_dim=64, vocabulary=512)
SPLITS = {
    "whole": TrainerSplit(),
    "tensor": TrainerSplit(tensor=2),
    "uneven stages": TrainerSplit(tensor=2, pipeline=2, first_stage_layers=1),
}
Parameters = Mapping[str, NDArray[np.uint16]]


def places(split: TrainerSplit) -> list[TrainerPlace]:
    """Return every rank's place."""
    grid = product(range(split.pipeline), range(split.tensor))
    return [TrainerPlace(split, tensor=tensor, pipeline=pipeline) for pipeline, tensor in grid]


def boxes(layout: tuple[LocalParameter, ...], parameters: Parameters) -> Iterator[MemoryBox]:
    """Yield a rank's strips over its parameters."""
    for parameter in layout:
        for strip in parameter.strips:
            memory = parameters[parameter.name][strip.in_parameter]
            yield MemoryBox(strip.tensor, strip.tensor_start, strip.tensor_stop, memory)


def empty(layout: tuple[LocalParameter, ...]) -> Parameters:
    """Return a rank's parameters before anything is read."""
    return {parameter.name: np.zeros(parameter.shape, np.uint16) for parameter in layout}


def load(index: FolderIndex, place: TrainerPlace) -> tuple[Parameters, CountedReads]:
    """Read a rank's parameters; return them and what was read."""
    layout, counted = trainer_layout(POLICY, place), CountedReads()
    parameters = empty(layout)
    with FolderReader(index, read_into=counted) as reader:
        reader.read(boxes(layout, parameters))
    return parameters, counted


def save(folder: Path, plan: FolderPlan, split: TrainerSplit, source: FolderIndex) -> None:
    """Have every rank of a split load its parameters and write them into a folder."""
    prepare(folder, plan, source.folder)
    for number, place in enumerate(places(split)):
        parameters, _ = load(source, place)
        with FolderWriter(folder, plan, f"rank-{number}") as writer:
            writer.write(boxes(trainer_layout(POLICY, place), parameters))
    commit(folder, plan, [f"rank-{number}" for number in range(len(places(split)))])


def digest(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def plan() -> FolderPlan:
    rules = architecture_of(POLICY.architecture).rules(POLICY)
    shapes = [named for rule in rules for named in rule.tensors(POLICY)]
    return plan_folder([TensorInfo(name=name, dtype="bfloat16", shape=shape) for name, shape in shapes], 40_000_000)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, plan: FolderPlan) -> FolderIndex:
    """A folder of a policy of random bits, 125 MB in four files, written by one process."""
    folder = tmp_path_factory.mktemp("source") / "policy"
    prepare(folder, plan, folder)
    with FolderWriter(folder, plan, "all") as writer:
        for seed, tensor in enumerate(plan.tensors.values()):
            content = random_tensor(tensor.shape, tensor.dtype, seed)
            writer.write([MemoryBox(tensor.name, (0,) * len(tensor.shape), tensor.shape, content)])
    commit(folder, plan, ["all"])
    return read_index(folder)


@pytest.mark.parametrize("name", SPLITS)
def test_a_folder_goes_through_any_layout_bit_by_bit(
    tmp_path: Path, plan: FolderPlan, source: FolderIndex, name: str
) -> None:
    save(tmp_path / "policy", plan, SPLITS[name], source)

    assert digest(tmp_path / "policy") == digest(source.folder)


@pytest.mark.parametrize("place", places(SPLITS["uneven stages"]), ids=lambda place: f"{place.pipeline}-{place.tensor}")
def test_a_rank_reads_its_own_strips_and_nothing_else(source: FolderIndex, place: TrainerPlace) -> None:
    layout = trainer_layout(POLICY, place)
    wanted = [strip for parameter in layout for strip in parameter.strips]
    needed = sum(strip.size for strip in wanted) * 2

    _, counted = load(source, place)

    assert needed <= counted.num_bytes
    assert counted.num_bytes <= needed + sum(page_rounding(source, strip) for strip in wanted)


def page_rounding(source: FolderIndex, strip: Strip) -> int:
    """Return how many bytes beside a strip's own lie in the pages of its file that hold some of it."""
    tensor = source[strip.tensor]
    if len(tensor.shape) == 1:
        return 2 * PAGE_BYTES
    box = Box(strip.tensor, strip.tensor_start, strip.tensor_stop)
    return PAGE_BYTES * len(pages_of(tensor, box)) - strip.size * tensor.item_bytes
