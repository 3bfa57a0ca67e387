"""Checkpoints: what a run goes on from, in the state folder, and `latest`, which trainer and master start from."""

import asyncio
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic, time

from tandem_api.engine import CheckpointStep
from tandem_api.history import CheckpointRecord
from tandem_master.buffer.store import Buffer
from tandem_master.errors import BufferStateError, CheckpointsFailed, MembersError, TrainError
from tandem_master.journal import Journal
from tandem_master.retention import Retention
from tandem_master.trainers import TrainerApi

logger = logging.getLogger(__name__)

LATEST = "latest"
"""File that holds the folder name of the newest checkpoint."""
BEST = "best"
"""Link to the checkpoint that did best on held-out problems."""
NAME = re.compile(r"generation-(\d{6,})")
LEFTOVER = re.compile(r"\.generation-(\d{6,})\.(?:partial|old)")
"""What a killed writer leaves beside them."""

MOST_FAILURES = 3
"""Checkpoints in a row that may fail; then the job does."""
WRITE_SECONDS = 3600.0
"""Deadline of writing one checkpoint, beside the job and at its end."""


def folder_name(generation: int) -> str:
    """Return the folder name of a generation's checkpoint."""
    return f"generation-{generation:06d}"


def latest_generation(folder: Path) -> int:
    """Return the generation that `latest` in `folder` names, 0 (the initial policy) where there is none.

    Errors: BufferStateError where it names what is not there.
    """
    path = folder / LATEST
    if not path.exists():
        return 0
    name = path.read_text(encoding="utf-8").strip()
    match = NAME.fullmatch(name)
    if match is None or not (folder / name).is_dir():
        raise BufferStateError(f"{path}: names {name!r}, which is no checkpoint here; restore it or start afresh")
    return int(match[1])


def linked_generation(folder: Path) -> int | None:
    """Return the generation that `best` in `folder` leads to, None where there is no such link."""
    path = folder / BEST
    match = NAME.fullmatch(path.readlink().name) if path.is_symlink() else None
    return int(match[1]) if match else None


class Checkpoints:
    """Writes the checkpoints of a run into `<state>/checkpoints` and the final policy into `<state>/policy`.

    A checkpoint is written while the run goes on, one at a time. It counts once it is complete: then, and no earlier,
    `latest` names it and others go. So a kill at any point leaves `latest` naming a complete checkpoint of a committed
    iteration.
    """

    def __init__(
        self, state: Path, buffer: Buffer, trainers: TrainerApi, journal: Journal, *, retention: Retention
    ) -> None:
        self._state = state
        self._buffer = buffer
        self._trainers = trainers
        self._journal = journal
        self._retention = retention
        self._newest = latest_generation(self.folder)
        self._writing: asyncio.Task[None] | None = None
        self._failures: list[str] = []
        """Of the last checkpoints in a row."""
        self._ranked: tuple[int, ...] = ()
        """Generations by how well they did on held-out problems, the best first."""
        self._tidying = asyncio.Lock()

    @property
    def folder(self) -> Path:
        return self._state / "checkpoints"

    async def begin(self, generation: int) -> None:
        """Begin to keep `generation`, which the trainers hold now; return as soon as they may go on.

        The checkpoint before is waited for. Errors: TrainError; CheckpointsFailed.
        """
        started = monotonic()
        await self.settle()
        if generation == self._newest:
            return
        await asyncio.to_thread(self.folder.mkdir, parents=True, exist_ok=True)
        folder = self.folder / folder_name(generation)
        await self._trainers.checkpoint(folder, generation, CheckpointStep.BEGIN)
        waited = monotonic() - started
        self._writing = asyncio.create_task(self._write(generation, started, waited), name="write a checkpoint")

    async def save(self, generation: int) -> None:
        """Keep `generation`, which the trainers hold now, and wait until it is complete. Errors: as begin."""
        await self.begin(generation)
        await self.settle()
        if generation != self._newest:
            raise TrainError(self._failures[-1])

    async def settle(self) -> None:
        """Wait for the checkpoint that is being written, if one is. Errors: CheckpointsFailed."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None
        if len(self._failures) >= MOST_FAILURES:
            raise CheckpointsFailed(f"{MOST_FAILURES} checkpoints in a row could not be written: {self._failures[-1]}")

    async def give_up(self, generation: int, error: TrainError) -> None:
        """Do without a checkpoint that could not be begun. Errors: CheckpointsFailed."""
        await self._failed(generation, monotonic(), 0.0, str(error))
        await self.settle()

    async def prefer(self, ranked: Sequence[int]) -> None:
        """Keep the first of these generations that has a complete checkpoint, and have `best` lead to it.

        Of one whose checkpoint is being written that is done as soon as it is complete. What cannot be linked costs a
        warning.
        """
        self._ranked = tuple(ranked)
        try:
            await self._tidy()
        except (OSError, sqlite3.Error) as error:
            logger.warning("%s: %s", self.folder / BEST, error)

    async def close(self) -> None:
        """Leave what is being written unfinished: who closes may not be the job's master any more."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait({self._writing})

    async def save_policy(self, generation: int) -> None:
        """Write `generation`, which the trainers hold now, as the run's policy. Errors: TrainError."""
        await self._trainers.save(self._state / "policy", generation)

    async def _write(self, generation: int, started: float, waited: float) -> None:
        """Write a checkpoint that was begun, and have it count."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                num_bytes = await self._complete(generation)
        except TimeoutError:
            await self._failed(generation, started, waited, f"it took more than {WRITE_SECONDS:g} s; is the disk slow?")
        except (TrainError, MembersError, OSError, sqlite3.Error) as error:
            await self._failed(generation, started, waited, str(error))
        else:
            self._failures.clear()
            await self._tell(generation, started, waited, num_bytes=num_bytes)

    async def _complete(self, generation: int) -> int:
        name = folder_name(generation)
        folder = self.folder / name
        await self._trainers.checkpoint(folder, generation, CheckpointStep.PREPARE)
        await self._trainers.checkpoint(folder, generation, CheckpointStep.WRITE)
        num_bytes = await self._trainers.checkpoint(folder, generation, CheckpointStep.COMMIT)
        await asyncio.to_thread(self._buffer.set_checkpoint, generation, name)
        await asyncio.to_thread(write_atomically, self.folder / LATEST, name)
        self._newest = generation
        await self._tidy()
        await asyncio.to_thread(remove_leftovers, self.folder, generation)
        return num_bytes

    async def _tidy(self) -> None:
        """Link the best checkpoint, then remove those that need not be kept."""
        async with self._tidying:
            best = await asyncio.to_thread(self._link_best)
            retention = replace(self._retention, best=best)
            for old in await asyncio.to_thread(self._buffer.forget_checkpoints, retention):
                await asyncio.to_thread(shutil.rmtree, self.folder / old, ignore_errors=True)

    def _link_best(self) -> int | None:
        """Have `best` lead to the best generation whose checkpoint counts, and return it; None where none does."""
        complete = (item for item in self._ranked if item <= self._newest and self._path_of(item).is_dir())
        best = next(complete, None)
        if best is not None and best != linked_generation(self.folder):
            link_atomically(self.folder / BEST, folder_name(best))
            logger.info("checkpoint %d is the best so far", best)
        return best

    def _path_of(self, generation: int) -> Path:
        return self.folder / folder_name(generation)

    async def _failed(self, generation: int, started: float, waited: float, error: str) -> None:
        self._failures.append(error)
        logger.error("checkpoint %d was not written, the %d. in a row: %s", generation, len(self._failures), error)
        await self._tell(generation, started, waited, error=error)

    async def _tell(
        self, generation: int, started: float, waited: float, *, num_bytes: int = 0, error: str = ""
    ) -> None:
        record = CheckpointRecord(
            at=time(),
            generation=generation,
            seconds=monotonic() - started,
            waited_seconds=waited,
            num_bytes=num_bytes,
            error=error,
        )
        await self._journal.write(record)


def count_complete(folder: Path, buffer: Buffer) -> int:
    """Return the newest checkpoint of a committed iteration, and have it count: a master may have been killed before.

    What is newer than `latest` is of the same weights: a run that goes back to a checkpoint sweeps the rest.
    """
    latest, newest = latest_generation(folder), buffer.newest_iteration()
    found = [NAME.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    complete = [number for match in found if match is not None and latest < (number := int(match[1])) <= newest]
    for generation in sorted(complete):
        buffer.set_checkpoint(generation, folder_name(generation))
        write_atomically(folder / LATEST, folder_name(generation))
        latest = generation
    return latest


def sweep_uncounted(folder: Path, newest: int) -> None:
    """Remove what no checkpoint is: those that were put in their place and never counted, and what killed writers left.

    Their numbers will be given again, to other weights.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        match = NAME.fullmatch(path.name)
        if LEFTOVER.fullmatch(path.name) or (match is not None and int(match[1]) > newest):
            logger.warning("%s was never complete and is removed", path)
            shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folder: Path, newest: int) -> None:
    """Remove checkpoints up to `newest` that were never finished: their writers were killed."""
    for path in folder.iterdir():
        match = LEFTOVER.fullmatch(path.name)
        if match is not None and int(match[1]) <= newest:
            shutil.rmtree(path, ignore_errors=True)


def link_atomically(path: Path, target: str) -> None:
    """Have the link `path` lead to its neighbour `target`: a reader sees the old or the new one."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target, target_is_directory=True)
    aside.replace(path)


def write_atomically(path: Path, text: str) -> None:
    """Replace the content of `path`: a reader sees the old or the new text, also after a power cut."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
