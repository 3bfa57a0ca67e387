"""What the optimizer remembers between iterations: nothing, where the recipe resets it; else also across restarts.

The state of a checkpoint is loaded when the next training begins, and not before: only then are all ranks of the job at
one thing. They compare what they remember there. Ranks that hold the same weights and remember different things would
drift apart, so that all forget where one has lost its memory.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from tandem_checkpoint.disk.optimizer_folder import FOLDER
from tandem_checkpoint.disk.replacing import aside_of
from tandem_sidecars.megatron.offload import reset
from tandem_sidecars.megatron.optimizer_state import Saving, begin_saving, load_optimizer

logger = logging.getLogger(__name__)


class OptimizerMemory:
    """One rank's part."""

    def __init__(
        self,
        chunks: Sequence[DistributedDataParallel],
        optimizer: MegatronOptimizer,
        device: torch.device,
        *,
        is_kept: bool,
    ) -> None:
        self._chunks = chunks
        self._optimizer = optimizer
        self._device = device
        self._is_kept = is_kept
        self._expected: Path | None = None
        """A checkpoint's folder of the state that goes with the weights, and that is still to be loaded."""
        self._age = 0
        """Names what is remembered, alike on all ranks: 0 is nothing."""
        self._saving: Saving | None = None

    def begin(self) -> None:
        """Begin an iteration: forget, or load what goes with the weights. Collective. Raises: LOAD_ERRORS."""
        if not self._is_kept:
            return self.forget()
        expected, self._expected = self._expected, None
        if not self._is_agreed(crc32(str(expected).encode()) if expected else self._age):
            logger.warning("not all ranks remember the same of the optimizer's state; all of them begin anew")
            self.forget()
        elif expected is not None:
            load_optimizer(expected, self._chunks, self._optimizer)
            self._age = crc32(str(expected).encode())
            logger.info("the optimizer goes on from %s", expected)

    def forget(self) -> None:
        """Drop the moments, and expect none."""
        reset(self._optimizer)
        self._age, self._expected = 0, None

    def expect(self, folder: str) -> None:
        """Go on from the state in a checkpoint, once the next training begins. `folder`: of the state; "": of none."""
        if self._is_kept and folder:
            self._expected = Path(folder)

    def count_step(self) -> None:
        self._age += 1

    def save(self, checkpoint: Path) -> None:
        """Begin to write the state into a checkpoint that is being made. Collective, and waits for the last save."""
        if self._saving is not None:
            self._saving.writing.join()
        self._saving = begin_saving(aside_of(checkpoint) / FOLDER, self._chunks, self._optimizer)

    def finish(self, checkpoint: Path) -> int:
        """On the first rank: end the folder; return its size. Raises: FolderIncomplete, OSError."""
        saving, self._saving = self._saving, None
        if saving is None or saving.folder != aside_of(checkpoint) / FOLDER:
            raise FileNotFoundError(2, "this rank has not begun to write it", str(checkpoint))
        return saving.finish()

    def _is_agreed(self, memory: int) -> bool:
        """Tell whether all ranks remember the same."""
        both = torch.tensor([memory, -memory], dtype=torch.int64, device=self._device)
        dist.all_reduce(both, op=dist.ReduceOp.MAX)
        return int(both[0]) == -int(both[1])
