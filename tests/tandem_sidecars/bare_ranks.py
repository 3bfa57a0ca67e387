"""The ranks of a trainer's pod without Megatron: their parameters, and what they read and write."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tandem_api.weights import Piece, Shard
from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import TrainerPlace, TrainerSplit
from tandem_checkpoint.layouts.shares import shares_of
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.process.commands import FolderSource, SaveStep, SegmentSource
from tandem_checkpoint.segments.layout import SegmentLayout, segment_layout
from tandem_checkpoint.segments.store import allocate, segment_name
from tandem_sidecars.megatron.export import SegmentWriter
from tandem_sidecars.megatron.save import FolderSaver
from tandem_sidecars.megatron.source import open_source
from tests.tandem_checkpoint.layouts.models import places_of

Parameters = dict[str, torch.Tensor]


class Ranks:
    """The ranks of a pod: their parameters, and all that they do with them, without Megatron."""

    def __init__(
        self,
        policy: PolicyConfig,
        split: TrainerSplit,
        dtype: torch.dtype = torch.float32,
        places: Sequence[TrainerPlace] = (),
    ) -> None:
        """Make the ranks at some places; by default those of the smallest pod that has whole models in a split."""
        self.policy = policy
        self.places = places or places_of(split)
        self.layout: SegmentLayout = segment_layout(policy, str(dtype).removeprefix("torch."))
        self.layouts = [trainer_layout(policy, place) for place in self.places]
        self.parameters: list[Parameters] = [
            {item.name: torch.full(item.shape, 7.0, dtype=torch.float32 if item.dtype else dtype) for item in local}
            for local in self.layouts
        ]

    def load(self, source: FolderSource | SegmentSource) -> "Ranks":
        for local, parameters in zip(self.layouts, self.parameters, strict=True):
            open_source(source, self.layout, local).fill(parameters)
        return self

    def export(self, folder: Path) -> SegmentSource:
        """Write the pod's segment, and return it as a source."""
        folder.mkdir(exist_ok=True)
        allocate(folder, self.layout.num_bytes)
        path = folder / segment_name(0)
        shares = [
            SegmentWriter(self.layout, self.policy, self.places, rank).write(path, parameters)
            for rank, parameters in enumerate(self.parameters)
        ]
        return SegmentSource(path=str(path), shards=tuple(map(self._shard, shares)))

    def save(self, folder: Path, origin: Path) -> int:
        """Write a folder step by step, each rank its share."""
        shares = shares_of(self.policy, self.places)
        savers = [FolderSaver(self.layout, origin, shares, rank) for rank in range(len(shares))]
        savers[0].save(folder, SaveStep.PREPARE, self.parameters[0])
        for saver, parameters in zip(savers, self.parameters, strict=True):
            saver.save(folder, SaveStep.WRITE, parameters)
        return savers[0].save(folder, SaveStep.COMMIT, self.parameters[0])

    def _shard(self, pieces: tuple[Piece, ...]) -> Shard:
        return Shard(generation=0, incarnation="a", segment="s", segment_bytes=self.layout.num_bytes, pieces=pieces)


def write_folder(folder: Path, policy: PolicyConfig, dtype: torch.dtype = torch.float32) -> FolderSource:
    """Write random weights for every tensor of a policy."""
    generator = torch.Generator().manual_seed(0)
    rules = architecture_of(policy.architecture).rules(policy)
    shapes = dict(item for rule in rules for item in rule.tensors(policy))
    folder.mkdir(exist_ok=True)
    tensors = {
        name: torch.randn(shape, generator=generator).to(torch.float32 if "e_score" in name else dtype)
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return FolderSource(path=str(folder))


def weights_in(folder: Path | str) -> Parameters:
    weights: Parameters = load_file(Path(folder) / "model.safetensors")
    return weights


def are_equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def pieces_of(source: SegmentSource) -> tuple[Piece, ...]:
    return tuple(piece for shard in source.shards for piece in shard.pieces)
