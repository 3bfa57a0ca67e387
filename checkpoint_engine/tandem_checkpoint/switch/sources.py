"""Where a trainer's weights come from when they are not in its ranks: a checkpoint, or the initial policy."""

from pathlib import Path

from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.architectures.split import check_trainer_split
from tandem_checkpoint.disk.optimizer_folder import optimizer_folder
from tandem_checkpoint.layouts.pod import split_of
from tandem_checkpoint.process.commands import FolderSource
from tandem_checkpoint.segments.layout import SegmentLayout, segment_layout
from tandem_checkpoint.settings import Settings

NAME = "generation-{:06d}"
"""Folder of a generation's checkpoint (tandem_master.checkpoints writes it)."""


def layout_of(settings: Settings) -> SegmentLayout:
    """Return the layout of this pod's segments. Raises: PolicyFolderError; SplitError where the split does not fit."""
    spec = settings.config.spec
    config = read_policy_config(Path(spec.policy.model.path))
    check_trainer_split(config, split_of(spec.trainer.parallelism))
    return segment_layout(config, spec.policy.dtype.value.lower())


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


def optimizer_of(settings: Settings, generation: int) -> str:
    """Return the folder of the optimizer's state that goes with a generation; "" where there is none, or none is kept.

    It goes with the weights of a segment too: a checkpoint of this number is of the same weights.
    """
    source = checkpoint_of(settings, generation)
    if settings.config.spec.recipe.objective.reset_optimizer or generation == 0 or source is None:
        return ""
    folder = optimizer_folder(Path(source.path))
    return "" if folder is None else str(folder)


def _checkpoints(settings: Settings) -> Path:
    assert settings.state is not None
    return settings.state / "checkpoints"
