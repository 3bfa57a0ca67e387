"""Checkpoints: the policy's weights in the state folder, and `latest`, which trainer and master start from."""

import asyncio
import os
import re
import shutil
from pathlib import Path

from tandem_master.buffer.store import Buffer
from tandem_master.errors import BufferStateError
from tandem_master.retention import Retention
from tandem_master.trainers import TrainerApi

LATEST = "latest"
"""File that holds the folder name of the newest checkpoint."""
NAME = re.compile(r"generation-(\d{6,})")
LEFTOVER = re.compile(r"\.generation-(\d{6,})\.(?:partial|old)")
"""What a killed writer leaves beside them."""


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


class Checkpoints:
    """Writes the checkpoints of a run into `<state>/checkpoints` and the final policy into `<state>/policy`."""

    def __init__(self, state: Path, buffer: Buffer, trainers: TrainerApi, *, retention: Retention) -> None:
        self._state = state
        self._buffer = buffer
        self._trainers = trainers
        self._retention = retention
        self._newest = latest_generation(self.folder)

    @property
    def folder(self) -> Path:
        return self._state / "checkpoints"

    @property
    def newest_generation(self) -> int:
        """Generation that a resumed run would start from."""
        return self._newest

    async def save(self, generation: int) -> None:
        """Keep `generation`, which the trainers hold now, and only then remove others. Errors: TrainError.

        A kill at any point leaves `latest` naming a complete checkpoint of a committed iteration.
        """
        if generation == self._newest:
            return
        name = folder_name(generation)
        await asyncio.to_thread(self.folder.mkdir, parents=True, exist_ok=True)
        await self._trainers.save(self.folder / name, generation)
        await asyncio.to_thread(self._buffer.set_checkpoint, generation, name)
        await asyncio.to_thread(write_atomically, self.folder / LATEST, name)
        self._newest = generation
        for old in await asyncio.to_thread(self._buffer.forget_checkpoints, self._retention):
            await asyncio.to_thread(shutil.rmtree, self.folder / old, ignore_errors=True)
        await asyncio.to_thread(remove_leftovers, self.folder, generation)

    async def save_policy(self, generation: int) -> None:
        """Write `generation`, which the trainers hold now, as the run's policy. Errors: TrainError."""
        await self._trainers.save(self._state / "policy", generation)


def remove_leftovers(folder: Path, newest: int) -> None:
    """Remove checkpoints up to `newest` that were never finished: their writers were killed."""
    for path in folder.iterdir():
        match = LEFTOVER.fullmatch(path.name)
        if match is not None and int(match[1]) <= newest:
            shutil.rmtree(path, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace the content of `path`: a reader sees the old or the new text, also after a power cut."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
