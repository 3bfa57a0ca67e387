"""Where a trainer's weights come from when they are not in its ranks: a checkpoint, or the initial policy."""

from pathlib import Path

from tandem_checkpoint.process.commands import FolderSource
from tandem_checkpoint.settings import Settings

NAME = "generation-{:06d}"
"""Folder of a generation's checkpoint (tandem_master.checkpoints writes it)."""


def checkpoint_of(settings: Settings, generation: int) -> FolderSource | None:
    """Return the weights of just this generation on disk, None where there are none."""
    if generation == 0:
        return FolderSource(path=settings.config.spec.policy.model.path)
    folder = _checkpoints(settings) / NAME.format(generation) if settings.state else None
    return FolderSource(path=str(folder)) if folder is not None and folder.is_dir() else None


def newest_checkpoint(settings: Settings) -> tuple[int, FolderSource]:
    """Return the newest complete checkpoint, else the initial policy, with the generation that it is."""
    pointer = _checkpoints(settings) / "latest" if settings.state else None
    if pointer is None or not pointer.is_file():
        return 0, FolderSource(path=settings.config.spec.policy.model.path)
    name = pointer.read_text().strip()
    return int(name.rpartition("-")[2]), FolderSource(path=str(pointer.parent / name))


def _checkpoints(settings: Settings) -> Path:
    assert settings.state is not None
    return settings.state / "checkpoints"
