"""The self-test: after a hand-over every tensor is compared end to end, before anything is trained on what comes of it.

A trainer tells by HTTP what its ranks hold, live or parked; the engine of the servers asks its workers for the same,
and compares. It does so for the first hand-over that it takes part in, and once for each lineage: a job that goes back
to a checkpoint has loaded its weights anew.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

from tandem_api.engine import WeightFingerprints
from tandem_api.registry import Desired, MemberRecord
from tandem_api.weights import BoxFingerprint, TensorInfo
from tandem_checkpoint.process.commands import Fingerprint, Fingerprinted, FolderSource, WeightSource
from tandem_checkpoint.process.ranks import CommandRefused, RankGroup
from tandem_checkpoint.segments.holdings import Holding, SelfTestFailed, compare, holding_of, is_complete, plain_tensors
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.switch.strategies.strategy import Strategy
from tandem_checkpoint.transfer.fingerprints import NotHeldNow, ask_fingerprints

logger = logging.getLogger(__name__)

MOST_FOLDER_BYTES = 64 << 30
"""A policy with more is not read a second time, to be compared with what the ranks hold."""


class HeldFingerprints:
    """What the ranks of one trainer hold, taken once for each of its generations that somebody asks about."""

    def __init__(self, layout: SegmentLayout) -> None:
        self._reads_folders = layout.num_bytes <= MOST_FOLDER_BYTES
        self._folder = ""
        self._taken: WeightFingerprints | None = None

    def forget(self, source: WeightSource | None = None) -> None:
        """Take note that the ranks hold other weights. Args: source: where they have all come from; None: elsewhere."""
        self._folder = source.path if isinstance(source, FolderSource) and self._reads_folders else ""
        self._taken = None

    async def take(self, ranks: RankGroup, generation: int) -> WeightFingerprints:
        """Return what the ranks hold, which is this generation. Errors: as RankGroup.ask."""
        if self._taken is None or self._taken.generation != generation:
            answers = await self._ask(ranks)
            self._taken = WeightFingerprints(
                generation=generation,
                boxes=tuple(box for answer in answers for box in answer.boxes),
                folder=self._folder,
                folder_boxes=tuple(box for answer in answers for box in answer.folder_boxes),
            )
        return self._taken

    async def _ask(self, ranks: RankGroup) -> list[Fingerprinted]:
        """Ask all ranks; a folder that is gone meanwhile, as old checkpoints go, is left out."""
        command = Fingerprint(folder=self._folder)
        try:
            return await ranks.ask(lambda _: command, Fingerprinted)
        except CommandRefused as error:
            if not self._folder:
                raise
            logger.warning("self-test: %s; what the ranks hold is compared without that folder", error)
            self._folder = ""
            return await ranks.ask(lambda _: Fingerprint(), Fingerprinted)


class SelfTest:
    """The self-test of one pod's servers."""

    def __init__(self, around: Surroundings, layout: SegmentLayout) -> None:
        self._around = around
        self._tensors: tuple[TensorInfo, ...] = layout.tensors
        self._plain = plain_tensors(layout)
        self._passed: str | None = None
        """Lineage of the last hand-over that was found right."""

    async def run(self, desired: Desired, strategy: Strategy) -> int | None:
        """Compare what servers and trainers hold; return how many tensors are equal, None where nothing was compared.

        Nothing is where it was done before, or where no trainer holds the generation now: then the next hand-over is.
        Raises: SelfTestFailed; FetchFailed where a trainer does not answer; those of the strategy.
        """
        if self._passed == desired.lineage:
            return None
        servers = [self._holding(number, answer) for number, answer in enumerate(await strategy.examine())]
        failure: SelfTestFailed | None = None
        async for trainer, folder in self._trainers(desired):
            try:
                await asyncio.to_thread(compare, trainer, servers, folder)
            except SelfTestFailed as error:
                failure = failure or error
                continue
            self._passed = desired.lineage
            logger.info("self-test: %d tensors equal", trainer.num_tensors)
            return trainer.num_tensors
        if failure is not None:
            raise failure
        logger.warning("self-test: left out, no trainer holds generation %d now", desired.generation)
        return None

    def _holding(self, number: int, answer: Fingerprinted) -> Holding:
        who = f"server {number} of {self._around.settings.pod}"
        return holding_of(who, answer.boxes, self._tensors, answer.misfits)

    async def _trainers(self, desired: Desired) -> AsyncIterator[tuple[Holding, Holding | None]]:
        """Yield what trainers hold, and the folder that they have loaded: whole policies, of as many pods as make one.

        A hybrid pod looks at its own trainer and those that it shares a model with. A rollout-only pod's weights may
        be those of any pod, which differ by the last bit of its own arithmetic.
        """
        boxes: list[BoxFingerprint] = []
        who: list[str] = []
        for pod, record in self._members():
            try:
                told = await self._ask(record, desired.generation)
            except NotHeldNow as error:
                logger.warning("self-test: %s: %s", pod, error)
                continue
            boxes.extend(told.boxes)
            who.append(pod)
            if is_complete(boxes, self._tensors):
                yield self._whole(who, boxes), self._folder(told)
                if self._around.settings.is_hybrid:
                    return
                boxes, who = [], []

    def _members(self) -> Iterator[tuple[str, MemberRecord]]:
        """Yield the trainers that are registered, this pod's own first."""
        settings, values = self._around.settings, self._around.mirror.values
        for pod in sorted(settings.config.hybrid_pods, key=lambda pod: pod != settings.pod):
            raw = values.get(settings.keys.member(pod, "train"))
            if raw is not None:
                yield pod, MemberRecord.model_validate_json(raw)

    async def _ask(self, record: MemberRecord, generation: int) -> WeightFingerprints:
        settings = self._around.settings
        return await ask_fingerprints(record.url, generation, settings.token, settings.trust)

    def _whole(self, pods: list[str], boxes: list[BoxFingerprint]) -> Holding:
        return holding_of(f"the trainer of {', '.join(pods)}", boxes, self._tensors)

    def _folder(self, told: WeightFingerprints) -> Holding | None:
        return holding_of(told.folder, told.folder_boxes, self._plain) if told.folder else None
