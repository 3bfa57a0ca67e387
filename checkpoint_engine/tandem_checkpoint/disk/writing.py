"""Writes a Hugging Face folder from any layout: each rank its own boxes, straight into the files, without a gather.

```python
plan = plan_folder(tensors)                     # every process: pure, the same everywhere
prepare(folder, plan, origin)                   # ONE process, before any other writes: files aside, at full size
with FolderWriter(folder, plan, "rank-3") as writer:   # every process at once, once `prepare` has returned
    writer.write(MemoryBox(tensor, start, stop, memory) for ...)   # memory may be used again when the next is asked for
                                                # left without an error: written and synced, with a receipt of the boxes
num_bytes = commit(folder, plan, ["rank-0", ...])      # ONE process, once all others have left theirs
```
The order between processes (prepare, then all write, then commit) is the callers': a barrier, or answers to a master.

Until `commit` everything lies in `.<name>.partial` beside the folder, and an older folder stays; then the two change
places in one step. A writer that was killed leaves that, and the next `prepare` of the same folder sweeps it away.
Memory is of the tensor's dtype on disk (`TensorInfo.dtype`): convert before. Boxes may overlap where they are equal.
OSError of a full or a read-only disk goes through; `prepare` meets it, as it allocates every byte. Whoever gives up
earlier calls `sweep(folder)` of `replacing.py`, which frees the room.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tandem_checkpoint.disk.coverage import Box, first_uncovered
from tandem_checkpoint.disk.folder_plan import FolderPlan
from tandem_checkpoint.disk.index import INDEX_FILE, StoredTensor
from tandem_checkpoint.disk.memory_box import MemoryBox, refuse_misfit
from tandem_checkpoint.disk.replacing import aside_of, replace_folder, sweep, sync
from tandem_checkpoint.disk.runs import Runs, runs_of

RECEIPTS = ".written"
"""Folder aside with what each writer has written, and the plan that it followed."""
PLAN = "plan"
PART_BYTES = 16 << 20
"""What one thread writes at a time."""
NUM_THREADS = 8
SHARED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Files of the initial policy that hold for every generation."""


class FolderIncomplete(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The folder cannot be finished: bytes were not written. The older one stays."""


def prepare(folder: Path, plan: FolderPlan, origin: Path) -> None:
    """Make the folder aside: shared files of `origin`, headers, and room for every byte."""
    make_aside(folder)
    lay_out(folder, plan, origin)


def make_aside(folder: Path) -> Path:
    """Make an empty folder aside and return it: what a killed writer has left is swept."""
    sweep(folder)
    (aside_of(folder) / RECEIPTS).mkdir(parents=True)
    return aside_of(folder)


def lay_out(folder: Path, plan: FolderPlan, origin: Path) -> None:
    """Put into the folder aside what `prepare` says. On a full disk it is removed: the disk is not left full."""
    aside = aside_of(folder)
    try:
        _lay_out(aside, plan, origin)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _lay_out(aside: Path, plan: FolderPlan, origin: Path) -> None:
    for name in SHARED_FILES:
        if (origin / name).is_file():
            shutil.copyfile(origin / name, aside / name)
    for file in plan.files:
        with (aside / file.name).open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.num_bytes)
            opened.write(file.head)
    if plan.index is not None:
        (aside / INDEX_FILE).write_bytes(plan.index)
    (aside / RECEIPTS / PLAN).write_text(plan.digest)


class FolderWriter:
    """One process's part in writing a folder."""

    def __init__(self, folder: Path, plan: FolderPlan, name: str, *, num_threads: int = NUM_THREADS) -> None:
        """Begin. `name`: a file name that no other writer of this folder has. Raises: FolderIncomplete where the
        folder aside was not prepared by the same plan."""
        self._aside = aside_of(folder)
        self._plan = plan
        self._receipt = self._aside / RECEIPTS / f"{name}.json"
        self._written: list[Box] = []
        self._descriptors: dict[Path, int] = {}
        try:
            prepared = (self._aside / RECEIPTS / PLAN).read_text()
        except FileNotFoundError:
            raise FolderIncomplete(f"{folder} was not prepared for writing; save again") from None
        if prepared != plan.digest:
            raise FolderIncomplete(f"{folder} was prepared for other tensors; save again with one version everywhere")
        self._threads = ThreadPoolExecutor(num_threads, "write-policy")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._threads.shutdown()
        try:
            if error is None:
                for descriptor in self._descriptors.values():
                    os.fsync(descriptor)
                self._leave_receipt()
        finally:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def write(self, boxes: Iterable[MemoryBox]) -> None:
        """Write every box to its place; one is in the file before the next is asked for."""
        for box in boxes:
            tensor = self._plan.tensors[box.tensor]
            refuse_misfit(box, tensor.dtype, tensor.shape, tensor.item_bytes)
            descriptor = self._open(tensor.file)
            memory = np.ascontiguousarray(box.memory).reshape(-1).view(np.uint8)
            for _ in self._threads.map(partial(_write_runs, descriptor, memory), _parts_of(tensor, box)):
                pass
            self._written.append(Box(box.tensor, box.start, box.stop))

    def _open(self, file: Path) -> int:
        if file not in self._descriptors:
            self._descriptors[file] = os.open(self._aside / file, os.O_WRONLY | os.O_CLOEXEC)
        return self._descriptors[file]

    def _leave_receipt(self) -> None:
        boxes = [(box.tensor, box.start, box.stop) for box in self._written]
        self._receipt.write_text(json.dumps(boxes))
        sync(self._receipt)


def commit(folder: Path, plan: FolderPlan, writers: Collection[str]) -> int:
    """Put the folder in its place once every byte of every tensor is written; return the size of its weight files.

    Raises: FolderIncomplete where a writer has not finished or bytes are missing; then the older folder stays.
    """
    aside = aside_of(folder)
    boxes = [box for writer in writers for box in _receipt_of(folder, writer)]
    missing = first_uncovered({name: tensor.shape for name, tensor in plan.tensors.items()}, boxes)
    if missing is not None:
        raise FolderIncomplete(f"{folder}: nobody has written {missing}; save again")
    for file in plan.files:
        if (aside / file.name).stat().st_size != file.num_bytes:
            raise FolderIncomplete(f"{aside / file.name} has changed its size while it was written; save again")
    shutil.rmtree(aside / RECEIPTS)
    for path in [*aside.iterdir(), aside]:
        sync(path)
    replace_folder(folder, aside)
    return plan.num_bytes


def _receipt_of(folder: Path, writer: str) -> Iterator[Box]:
    try:
        boxes = json.loads((aside_of(folder) / RECEIPTS / f"{writer}.json").read_text())
    except FileNotFoundError:
        raise FolderIncomplete(f"{folder}: {writer} has not written its part; save again") from None
    for tensor, start, stop in boxes:
        yield Box(tensor, tuple(start), tuple(stop))


def _parts_of(tensor: StoredTensor, box: MemoryBox) -> Iterator[Runs]:
    for runs in runs_of(tensor.shape, tensor.item_bytes, tensor.offset_bytes, box.start, box.stop):
        yield from runs.cut(PART_BYTES)


def _write_runs(descriptor: int, memory: NDArray[np.uint8], runs: Runs) -> None:
    view = memory[runs.memory_bytes : runs.memory_bytes + runs.num_bytes].data
    for number in range(runs.num_runs):
        run = view[number * runs.run_bytes : (number + 1) * runs.run_bytes]
        offset, at = runs.offset_bytes + number * runs.stride_bytes, 0
        while at < len(run):
            at += os.pwrite(descriptor, run[at:], offset + at)
