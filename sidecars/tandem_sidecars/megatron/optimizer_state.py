"""The optimizer's state as a Megatron distributed checkpoint: moments and main parameters, for a run that goes on.

All ranks of the job begin together: each copies what it is to write into host memory, and a thread writes it while
training goes on. Nobody waits for anybody then: each rank leaves a receipt of what it has written, and from all of them
the first rank makes the list that ends the folder. Megatron names each tensor by its place in the whole model, so that
ranks of another layout can load it.

The list is written and read by pickle, as PyTorch's own format has it: a checkpoint is to be trusted as the job's
volume is.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingConfig, CheckpointingException, save_config
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.storage import WriteResult

from tandem_checkpoint.disk.optimizer_folder import forget_receipts, leave_failure, leave_receipt, receipts_of
from tandem_checkpoint.disk.replacing import sync
from tandem_sidecars.megatron.offload import parts_of, reset, state_tensors

logger = logging.getLogger(__name__)

METADATA = {"chained_optim_avoid_prefix": True}
"""How Megatron names the tensors: alike, whether experts have an optimizer of their own or not."""
HAS_MOMENTS = "has_moments"
BACKEND = ("torch_dist", 1)
OF_THE_RUN = ("params", "step")
"""What of a parameter group belongs to the state; all else is a number of the recipe, and the job's own counts."""
LOAD_ERRORS = (CheckpointingException, OSError)
"""What can be wrong with a folder."""


@dataclass(frozen=True, slots=True)
class Saving:
    """A save that is under way; training may go on."""

    folder: Path
    writer: FileSystemWriterAsync
    metadata: Metadata | None
    """What the folder holds, without where; on the first rank."""
    writing: Thread
    """Ends with a receipt, or the reason why there is none."""

    def finish(self) -> int:
        """On the first rank, once all have written: end the folder, and return its size.

        Raises: FolderIncomplete where a rank has not written its part.
        """
        results = [[_result(item) for item in receipt] for receipt in receipts_of(self.folder, dist.get_world_size())]
        assert self.metadata is not None
        self.writer.finish(self.metadata, results)
        save_config(CheckpointingConfig(*BACKEND), str(self.folder))
        forget_receipts(self.folder)
        files = [path for path in self.folder.iterdir() if path.is_file()]
        for path in [*files, self.folder]:
            sync(path)
        return sum(path.stat().st_size for path in files)


class _Strategy(TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """Megatron's own, but for who writes: it forks processes from this one, which may hold a device."""

    def __init__(self, live: frozenset[int]) -> None:
        super().__init__(*BACKEND)
        self._live = live
        self.writer: FileSystemWriterAsync
        self.metadata: Metadata | None

    def _get_save_and_finalize_callbacks(self, writer: FileSystemWriterAsync, planned: tuple[Any, ...]) -> AsyncRequest:
        writer.write_buckets = [
            (path, key, (content, [(item, self._copied(tensor)) for item, tensor in tensors]))
            for path, key, (content, tensors) in writer.write_buckets
        ]
        self.writer, self.metadata = writer, planned[1]
        return AsyncRequest(None, (), [])

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor that no training changes."""
        is_live = tensor.device.type != "cpu" or tensor.untyped_storage().data_ptr() in self._live
        return tensor.detach().to("cpu", copy=True) if is_live else tensor


def begin_saving(folder: Path, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer) -> Saving:
    """Copy the state to host memory and begin to write it into `folder`, which is to be new and empty.

    Collective: all ranks of the job, while the optimizer is on its device.
    """
    filesystem_async._results_queue = Queue()  # else Megatron starts a process for it
    state = {"optimizer": _sharded(chunks, optimizer, is_loading=False)}
    strategy = _Strategy(frozenset(tensor.untyped_storage().data_ptr() for tensor in state_tensors(optimizer)))
    dist_checkpointing.save(
        state,
        str(folder),
        strategy,
        async_sharded_save=True,
        content_metadata={**METADATA, HAS_MOMENTS: bool(list(_moments(optimizer)))},
    )
    writing = Thread(target=_write, args=(folder, strategy.writer), name="write-optimizer", daemon=True)
    writing.start()
    return Saving(folder, strategy.writer, strategy.metadata, writing)


def load_optimizer(folder: Path, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer) -> None:
    """Give the optimizer the state that was saved, whichever ranks held it then. Collective, as `begin_saving`.

    Learning rate and the like stay as they are. Raises: LOAD_ERRORS.
    """
    reset(optimizer)
    numbers = [[_numbers(group) for group in part.param_groups] for part in parts_of(optimizer)]
    saved = dist_checkpointing.load_content_metadata(str(folder)) or {}
    state = {"optimizer": _sharded(chunks, optimizer, is_loading=bool(saved.get(HAS_MOMENTS)))}
    loaded = dist_checkpointing.load(state, str(folder))
    optimizer.load_state_dict(loaded["optimizer"])
    for part, groups in zip(parts_of(optimizer), numbers, strict=True):
        for group, own in zip(part.param_groups, groups, strict=True):
            group.update(own)


def _write(folder: Path, writer: FileSystemWriterAsync) -> None:
    """Write this rank's files and leave a receipt, or the reason why there is none."""
    results: Queue[tuple[int, Any]] = Queue()
    transforms = [writer.transforms] if hasattr(writer, "transforms") else []
    counts: Queue[int] = Queue()  # Megatron counts its processes with it; here is one thread
    for number, bucket in enumerate(writer.write_buckets):
        counts.put(number)
        FileSystemWriterAsync.write_preloaded_data(transforms, number, bucket, results, counts, use_fsync=True)
    answers = [results.get()[1] for _ in writer.write_buckets]
    writer.write_buckets = []
    failure = next((answer for answer in answers if isinstance(answer, Exception)), None)
    try:
        if failure is not None:
            leave_failure(folder, dist.get_rank(), str(failure))
        else:
            leave_receipt(folder, dist.get_rank(), [_told(result) for answer in answers for result in answer])
    except OSError as error:  # the folder was removed meanwhile, or the disk takes nothing at all
        logger.error("%s: rank %d can leave no receipt: %s", folder, dist.get_rank(), error)


def _told(result: WriteResult) -> list[Any]:
    """Return in JSON's types where a tensor's box was written."""
    index, place = result.index, result.storage_data
    offset = None if index.offset is None else list(index.offset)
    return [index.fqn, offset, index.index, result.size_in_bytes, place.relative_path, place.offset, place.length]


def _result(told: Sequence[Any]) -> WriteResult:
    """Return what `_told` told."""
    name, offset, index, num_bytes, path, at, length = told
    box = MetadataIndex(name, None if offset is None else torch.Size(offset), index)
    return WriteResult(index=box, size_in_bytes=num_bytes, storage_data=_StorageInfo(path, at, length))


def _sharded(
    chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, is_loading: bool
) -> dict[str, Any]:
    """Return the optimizer's state, each tensor with its place in the whole model's."""
    model = {number: chunk.module.sharded_state_dict() for number, chunk in enumerate(chunks)}
    sharded: dict[str, Any] = optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=METADATA)
    return sharded


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in OF_THE_RUN}


def _moments(optimizer: MegatronOptimizer) -> Iterator[torch.Tensor]:
    """Yield the moments; none before the first step and after they are forgotten."""
    states: Iterable[dict[str, torch.Tensor]] = (item for part in parts_of(optimizer) for item in part.state.values())
    return (value for item in states for value in item.values())
