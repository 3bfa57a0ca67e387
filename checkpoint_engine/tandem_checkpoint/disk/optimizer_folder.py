"""The folder of the optimizer's state within a checkpoint: where it is, and who has written their part of it.

Each rank writes its part by itself and leaves a receipt of it, or the reason why it could not. Whoever is to know that
a part is on disk looks for that, and asks no rank: a rank has its own work meanwhile.
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tandem_checkpoint.disk.replacing import sync
from tandem_checkpoint.disk.writing import FolderIncomplete

FOLDER = "optimizer"
"""Name within the checkpoint's folder."""
LIST_FILE = ".metadata"
"""Megatron's list of what lies where: the last file to be written but one."""
RECEIPTS = ".optimizer-written"
"""Folder beside it with the receipts."""
POLL_SECONDS = 0.05


def optimizer_folder(checkpoint: Path) -> Path | None:
    """Return where a checkpoint holds the optimizer's state, None where it holds none."""
    folder = checkpoint / FOLDER
    return folder if (folder / LIST_FILE).is_file() else None


def make_optimizer_folder(aside: Path) -> Path:
    """Make the folder in a checkpoint that is being written."""
    folder = aside / FOLDER
    folder.mkdir(parents=True)
    (aside / RECEIPTS).mkdir()
    return folder


def leave_receipt(folder: Path, rank: int, content: Sequence[Any]) -> None:
    """Say that a rank's part is on disk. `content`: in JSON's types."""
    _leave(folder.parent / RECEIPTS / f"rank-{rank}.json", json.dumps(content))


def leave_failure(folder: Path, rank: int, reason: str) -> None:
    """Say that a rank's part will not come."""
    _leave(folder.parent / RECEIPTS / f"rank-{rank}.failed", reason)


async def all_written(folder: Path, ranks: Iterable[int], check: Callable[[], None]) -> None:
    """Wait for the receipts of some ranks. `check` raises where waiting has become pointless.

    Raises: FolderIncomplete where a rank could not write its part.
    """
    missing = set(ranks)
    while missing:
        check()
        missing -= {rank for rank in missing if _is_written(folder, rank)}
        await asyncio.sleep(POLL_SECONDS if missing else 0.0)


def receipts_of(folder: Path, num_ranks: int) -> Iterator[list[Any]]:
    """Yield the receipts by rank. Raises: FolderIncomplete where one is missing."""
    for rank in range(num_ranks):
        if not _is_written(folder, rank):
            raise FolderIncomplete(f"{folder}: rank {rank} has not written its part; save again")
        yield json.loads((folder.parent / RECEIPTS / f"rank-{rank}.json").read_text())


def forget_receipts(folder: Path) -> None:
    """Remove what only the writing needed."""
    shutil.rmtree(folder.parent / RECEIPTS)


def _leave(path: Path, text: str) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(text)
    sync(aside)
    aside.replace(path)


def _is_written(folder: Path, rank: int) -> bool:
    failed = folder.parent / RECEIPTS / f"rank-{rank}.failed"
    if failed.exists():
        raise FolderIncomplete(f"{folder}: rank {rank} could not write its part: {failed.read_text()}")
    return (folder.parent / RECEIPTS / f"rank-{rank}.json").exists()
