"""The trainer's side: export, offload and give the devices away; take them and reload."""

import asyncio
import logging
import sys
from collections.abc import Mapping

from tandem_api.engine import (
    ENGINE_PORT_TRAIN,
    RENDEZVOUS_PORT,
    CheckpointRequest,
    CheckpointStep,
    PublishedWeights,
    SaveRequest,
    SaveResponse,
    TrainRequest,
    TrainResponse,
    WeightFingerprints,
)
from tandem_api.job.operations import SwitchStrategy
from tandem_api.registry import Desired, MemberRecord, Role
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.gpu_token import DevicesHeld, GpuToken
from tandem_checkpoint.process.child import ChildGone, unless_gone
from tandem_checkpoint.process.commands import (
    Load,
    Loaded,
    Moved,
    Offload,
    Reload,
    Trained,
)
from tandem_checkpoint.process.environment import child_variables
from tandem_checkpoint.process.ranks import RankGroup
from tandem_checkpoint.segments.record import ExportRecord, read_record
from tandem_checkpoint.segments.store import allocate
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.checkpointing import CheckpointWriter
from tandem_checkpoint.switch.crew import pod_ranks
from tandem_checkpoint.switch.exporting import Exporter
from tandem_checkpoint.switch.meeting import START_SECONDS, Meeting
from tandem_checkpoint.switch.protocol import Action
from tandem_checkpoint.switch.publication import published_weights, word_epoch
from tandem_checkpoint.switch.rank_orders import log_freed, save_policy, train_order
from tandem_checkpoint.switch.selftest import HeldFingerprints
from tandem_checkpoint.switch.side import Act, Announce, GenerationLost, Held, Surroundings
from tandem_checkpoint.switch.sources import checkpoint_of, layout_of, newest_checkpoint, optimizer_of
from tandem_checkpoint.transfer.exports import Exports

logger = logging.getLogger(__name__)

TRAINER_PROGRAM = "tandem_sidecars.megatron"


class WrongPhase(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A request belongs to another epoch than the one this member is in."""


class TrainSide:
    """See Side."""

    def __init__(self, around: Surroundings, token: GpuToken) -> None:
        self._around = around
        self._token = token
        self._ranks: RankGroup | None = None
        self._meeting = Meeting(around)
        self._built = False
        self._busy = asyncio.Lock()
        self._epoch = 0
        self._training = False
        self._generation: int | None = None
        self._lineage = ""
        self._device_bytes: int | None = None
        self.exports = Exports(around.settings.shared)
        """What other pods may read of this pod's segments."""
        self._layout = layout_of(around.settings)
        self._pod = pod_ranks(around.settings)
        self._exporter = Exporter(around, self._layout, self.exports)
        self._checkpoints = CheckpointWriter(around.settings, self._pod, self._layout)
        self._fingerprints = HeldFingerprints(self._layout)

    @property
    def role(self) -> Role:
        return "train"

    @property
    def awaited(self) -> bool:
        return True

    @property
    def held(self) -> Held:
        return Held(self._generation, self._lineage, self._device_bytes)

    @property
    def acts(self) -> Mapping[Action, Act]:
        return {
            Action.DRAIN: self._drain,
            Action.EXPORT: self._export,
            Action.OFFLOAD: self._offload,
            Action.TAKE: self._take,
            Action.RELOAD: self._reload,
            Action.TRAIN: self._begin_training,
        }

    def record(self) -> MemberRecord:
        settings = self._around.settings
        return MemberRecord(
            incarnation=self._around.incarnation,
            attempt=settings.attempt,
            role="train",
            address=settings.address,
            port=ENGINE_PORT_TRAIN,
            scheme=settings.scheme,
            rendezvous_port=RENDEZVOUS_PORT,
            num_ranks=self._pod.num_ranks,
            shares=self._pod.shares,
            is_whole=self._pod.is_whole,
            ranks_life=self._meeting.life,
            crew=self._meeting.crew_name,
        )

    async def start(self, announce: Announce) -> None:
        """Start the ranks and have them meet those of the other pods, which takes no devices.

        Where the devices are free, build the model; where a server has them, that waits for the master's word. What
        all pods must do together may not hang on what one of them holds.
        """
        settings = self._around.settings
        self._training = False
        await asyncio.to_thread(allocate, settings.shared, self._layout.num_bytes)
        if self._ranks is None or self._ranks.any_ended:
            self._meeting.begin_life()  # else another pod's ranks have ended, and ours keep their name
        await self._end_ranks()
        self._ranks = await RankGroup.start(
            [sys.executable, "-m", TRAINER_PROGRAM],
            child_variables(settings),
            settings.config.spec.hybrid.gpus_per_pod,
            inherit=(self._token.descriptor,),
        )
        await self._meeting.call(announce)
        await unless_gone(self._meeting.hold(self._ranks), self.first_end())
        if self._token.try_acquire():
            await unless_gone(self._build(), self.first_end())

    async def train(self, request: TrainRequest) -> TrainResponse:
        """Run one batch; raise WrongPhase for a batch of another epoch (invariant 5).

        What comes of it is in the pod's segment before the answer: an iteration is committed only once its weights
        outlive the ranks.
        """
        async with self._busy:
            self._check(request)
            began = asyncio.get_running_loop().time()
            self._generation = None  # until all ranks have answered, nobody knows what they hold
            answers = await self._group.ask(lambda rank: train_order(request, self._pod.share(rank)), Trained)
            self._generation = request.generation + 1
            self._fingerprints.forget()
            trained_at = asyncio.get_running_loop().time()
            await self._exporter.register(await self._write(self._generation), epoch=0)
        return TrainResponse(
            max_abs_logprob_difference=answers[0].max_abs_logprob_difference,
            num_logprobs=answers[0].num_logprobs,
            kl=answers[0].kl,
            steps=answers[0].steps,
            num_tokens=answers[0].num_tokens,
            seconds=trained_at - began,
            export_seconds=asyncio.get_running_loop().time() - trained_at,
        )

    async def save(self, request: SaveRequest) -> SaveResponse:
        """Write the current weights to disk, in whatever phase; raise WrongPhase before there are any."""
        async with self._busy:
            if self._generation is None:
                raise WrongPhase(
                    "this trainer holds no complete weights now (it starts, or a batch was cut); ask again once "
                    "/readyz says so"
                )
            if request.generation not in (None, self._generation):
                raise WrongPhase(f"this trainer holds generation {self._generation}, not {request.generation}")
            is_whole = self._around.settings.config.spec.trainer.parallelism.is_whole
            saved = await save_policy(self._group, request.path, request.step, is_whole)
        return SaveResponse(path=request.path, num_bytes=saved.num_bytes)

    async def checkpoint(self, request: CheckpointRequest) -> SaveResponse:
        """Take a step of a checkpoint; raise WrongPhase where the first one needs ranks, and they have left."""
        if request.step is not CheckpointStep.BEGIN:
            return await self._checkpoints.go_on(request)
        async with self._busy:
            record = read_record(self._around.settings.shared, request.generation, self._lineage)
            needs_ranks = record is None or self._checkpoints.keeps_optimizer
            if request.generation != self._generation or (needs_ranks and not self._training):
                raise WrongPhase(f"this trainer does not train from generation {request.generation} now")
            record = record or await self._write(request.generation)
            return await self._checkpoints.begin(request, record, self._group)

    async def publish(self, generation: int) -> PublishedWeights:
        """Export and register what the ranks hold, once more or for the first time.

        It is written anew only while this trainer trains: else a server may have its segment bound.
        Errors: Conflict, RegistryError, ChildGone.
        """
        async with self._busy:
            if generation != self._generation:
                raise Conflict(f"this trainer holds generation {self._generation} now; ask for that one")
            if not self._lineage:
                raise Conflict(f"generation {generation} came from a checkpoint; ask after the master's first word")
            record = await self._exporter.find(generation, self._lineage)
            if record is None and not self._training:
                raise Conflict(
                    f"generation {generation} is not in its segment, which a server may have bound; ask while this "
                    "trainer trains"
                )
            record = record or await self._write(generation)
            await self._exporter.register(record, word_epoch(self._around, record))
        return await published_weights(self._around, record)

    async def fingerprints(self, generation: int) -> WeightFingerprints:
        """Return what the ranks hold, live or parked. Errors: Conflict where that is another generation; ChildGone."""
        async with self._busy:
            if not self._built or generation != self._generation:
                raise Conflict(f"this trainer's ranks hold generation {self._generation} now; ask for that one")
            return await self._fingerprints.take(self._group, generation)

    async def fail(self) -> None:
        """Nothing: the weights stay where they are, and with them the token, where it is held."""

    async def leave(self) -> None:
        self._training = False

    async def restore(self) -> None:
        await self._exporter.restore()

    async def first_end(self) -> ChildGone:
        """Return how a rank here has ended, or whose ranks elsewhere have started anew since ours met them."""
        ranks = asyncio.create_task(self._group.first_end(), name="watch the ranks")
        crew = asyncio.create_task(self._meeting.broken(), name="watch the crew")
        try:
            await asyncio.wait({ranks, crew}, return_when=asyncio.FIRST_COMPLETED)
            return ChildGone(ranks.result()) if ranks.done() else crew.result()
        finally:
            ranks.cancel()
            crew.cancel()

    async def close(self) -> None:
        await self._end_ranks()

    async def _drain(self, desired: Desired, stopwatch: Stopwatch) -> None:
        with stopwatch.stage("drain"):
            self._training = False
            async with self._busy:
                """The running batch has ended."""

    async def _export(self, desired: Desired, stopwatch: Stopwatch) -> None:
        with stopwatch.stage("export"):
            async with self._busy:
                record = await self._exporter.find(desired.generation, desired.lineage)
                if record is None:
                    await self._hold(desired)
                    record = await self._write(desired.generation)
                    await self._fingerprints.take(self._group, desired.generation)  # while they are on the devices
            await self._exporter.register(record, desired.epoch)

    async def _offload(self, desired: Desired, stopwatch: Stopwatch) -> None:
        with stopwatch.stage("offload"):
            if self._built and not self._stays:
                async with self._busy:
                    moved = await self._group.ask(lambda _: Offload(), Moved)
                self._device_bytes = sum(answer.device_bytes for answer in moved)
                log_freed(moved)
                if self._device_bytes > 0:
                    raise DevicesHeld(
                        f"the trainer still holds {self._device_bytes} bytes of device memory after offloading; the "
                        "token stays with it, since a server would not find the devices free"
                    )
            if not self._stays:
                self._token.release()
        await self._exporter.forget_old(desired)

    async def _take(self, desired: Desired, stopwatch: Stopwatch) -> None:
        if not self._stays:
            with stopwatch.wait("token"):
                await self._token.acquire(self._around.settings.config.spec.switch.infer_to_train_deadline_seconds)

    async def _reload(self, desired: Desired, stopwatch: Stopwatch) -> None:
        with stopwatch.stage("reload"):
            async with self._busy:
                await self._build()
                await self._come_back()
                await self._hold(desired)

    async def _begin_training(self, desired: Desired, stopwatch: Stopwatch) -> None:
        with stopwatch.stage("ready"):
            self._epoch = desired.epoch
            self._training = True

    async def _write(self, generation: int) -> ExportRecord:
        """Have the ranks write the generation that they hold into its segment."""
        await self._checkpoints.released(generation)
        began = asyncio.get_running_loop().time()
        record = await self._exporter.write(generation, self._lineage, self._group)
        num_bytes = sum(piece.num_bytes for shard in record.shards for piece in shard.pieces)
        self._around.metrics.exported(num_bytes, asyncio.get_running_loop().time() - began)
        return record

    async def _hold(self, desired: Desired) -> None:
        """Have the ranks hold the word's generation, from wherever it can be had. Errors: GenerationLost."""
        if self._generation == desired.generation and self._lineage in ("", desired.lineage):
            self._lineage = desired.lineage
            return
        source = await self._exporter.source_of(desired) or checkpoint_of(self._around.settings, desired.generation)
        if source is None:
            raise GenerationLost(
                f"generation {desired.generation} is neither in the ranks (they hold {self._generation}) nor in a "
                "segment of this pod nor in a checkpoint; the job goes back to its newest checkpoint"
            )
        logger.warning("restoring generation %d from %s", desired.generation, source.path)
        await self._token.acquire(self._around.settings.config.spec.switch.train_to_infer_deadline_seconds)
        await self._build()
        await self._come_back()
        self._generation = None
        order = Load(source=source, optimizer=optimizer_of(self._around.settings, desired.generation))
        loaded = await self._group.ask(lambda _: order, Loaded)
        self._device_bytes = sum(answer.device_bytes for answer in loaded)
        self._generation, self._lineage = desired.generation, desired.lineage
        self._fingerprints.forget(source)

    async def _build(self) -> None:
        """Load the newest checkpoint, or else the initial policy, unless that was done."""
        if self._built:
            return
        settings = self._around.settings
        generation, source = newest_checkpoint(settings)
        async with asyncio.timeout(START_SECONDS):
            await self._group.build(self._meeting.places, source, optimizer_of(settings, generation))
        self._built = True
        self._fingerprints.forget(source)
        self._generation, self._lineage, self._device_bytes = generation, "", self._group.device_bytes

    async def _come_back(self) -> None:
        moved = await self._group.ask(lambda _: Reload(), Moved)
        self._device_bytes = sum(answer.device_bytes for answer in moved)

    async def _end_ranks(self) -> None:
        if self._ranks is not None:
            await self._ranks.kill()
        self._meeting.end()
        self._ranks, self._built = None, False
        self._generation, self._device_bytes = None, 0
        self._token.release()

    @property
    def _group(self) -> RankGroup:
        assert self._ranks is not None
        return self._ranks

    @property
    def _stays(self) -> bool:
        """Whether the trainer keeps the devices while the server serves."""
        return self._around.settings.config.spec.switch.strategy is SwitchStrategy.RESIDENT

    def _check(self, request: TrainRequest) -> None:
        if not self._training or request.epoch != self._epoch:
            raise WrongPhase(f"the batch is of epoch {request.epoch}, this trainer is in epoch {self._epoch}")
        if request.generation != self._generation:
            raise WrongPhase(
                f"the batch was sampled with generation {request.generation}, this trainer holds {self._generation}"
            )
