"""The ranks of one pod spoken to as their engine does, and what they write."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem_api.engine import Sample
from tandem_api.weights import Piece, Shard
from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.layouts.pod import PodRanks
from tandem_checkpoint.process.commands import (
    Export,
    Exported,
    FolderSource,
    Load,
    Loaded,
    RankCommand,
    Save,
    Saved,
    SaveStep,
    SegmentSource,
    Train,
    Trained,
)
from tandem_checkpoint.segments.layout import segment_layout
from tandem_checkpoint.segments.store import allocate, map_for_reading, segment_name
from tests.tandem_sidecars.forge import Answer, RankProcess, ask_all
from tests.tandem_sidecars.training import Tensors, weights_in


@dataclass(frozen=True, slots=True)
class Pod:
    """The ranks of a job in one pod, spoken to as its engine does."""

    ranks: Sequence[RankProcess]
    layout: PodRanks
    policy: Path
    folder: Path

    def ask(self, command: Callable[[int], RankCommand], wanted: type[Answer]) -> list[Answer]:
        return ask_all(self.ranks, command, wanted)

    def train(self, samples: Sequence[Sample], limit: float, num_steps: int = 2) -> list[Trained]:
        """Take steps, each over all samples."""
        return self.offer(samples, limit, num_steps, Trained)

    def offer(self, samples: Sequence[Sample], limit: float, num_steps: int, wanted: type[Answer]) -> list[Answer]:
        """Have the ranks train, or refuse to, where they differ from the samples by more than a limit."""
        shares = [tuple(samples)[number :: self.layout.num_shares] for number in range(self.layout.num_shares)]
        return self.ask(
            lambda index: Train(
                max_logprob_difference=limit,
                steps=(shares[self.layout.share(index)],) * num_steps,
                samples_per_step=(len(samples),) * num_steps,
            ),
            wanted,
        )

    def export(self, name: str) -> "Exports":
        layout = segment_layout(read_policy_config(self.policy), "float32")
        folder = self.folder / name
        folder.mkdir(parents=True)
        allocate(folder, layout.num_bytes)
        path = folder / segment_name(0)
        answers = self.ask(lambda _: Export(segment=str(path)), Exported)
        return Exports(path, tuple(piece for answer in answers for piece in answer.pieces), layout.num_bytes)

    def load(self, source: FolderSource | SegmentSource) -> None:
        self.ask(lambda _: Load(source=source), Loaded)

    def save(self, name: str) -> Tensors:
        """Write a checkpoint and return what is in it."""
        path = str(self.folder / name)
        self.ranks[0].ask(Save(path=path, step=SaveStep.PREPARE), Saved)
        self.ask(lambda _: Save(path=path, step=SaveStep.WRITE), Saved)
        self.ranks[0].ask(Save(path=path, step=SaveStep.COMMIT), Saved)
        return weights_in(Path(path))


@dataclass(frozen=True, slots=True)
class Exports:
    """What a pod's ranks wrote into a segment."""

    path: Path
    pieces: tuple[Piece, ...]
    num_bytes: int

    @property
    def content(self) -> bytes:
        with map_for_reading(self.path) as mapped:
            return bytes(mapped)

    @property
    def shard(self) -> Shard:
        return Shard(
            generation=0,
            incarnation="a",
            segment=self.path.name,
            segment_bytes=self.num_bytes,
            pieces=self.pieces,
        )

    @property
    def source(self) -> SegmentSource:
        return SegmentSource(path=str(self.path), shards=(self.shard,))
