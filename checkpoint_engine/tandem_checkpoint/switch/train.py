"""The trainer's side: export, offload and give the devices away; take them and reload."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tandem_api.engine import (
    ENGINE_PORT_TRAIN,
    RENDEZVOUS_PORT,
    SaveRequest,
    SaveResponse,
    TrainRequest,
    TrainResponse,
)
from tandem_api.registry import Desired, MemberRecord, MemberState, Role
from tandem_api.weights import Layout, Shard
from tandem_checkpoint.architectures.config import PolicyConfig, read_policy_config
from tandem_checkpoint.gpu_token import GpuToken
from tandem_checkpoint.process.commands import Export, Exported, Moved, Offload, Reload, Save, Saved, Train, Trained
from tandem_checkpoint.process.environment import child_variables
from tandem_checkpoint.process.ranks import RankGroup, RankPlace
from tandem_checkpoint.registry.errors import Fenced
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.registry.store import Absent, Put
from tandem_checkpoint.segments.layout import SegmentLayout, segment_layout
from tandem_checkpoint.segments.store import allocate, segment_name
from tandem_checkpoint.switch.side import Outcome, Surroundings
from tandem_checkpoint.switch.stopwatch import Stopwatch
from tandem_checkpoint.transfer.exports import Exports

logger = logging.getLogger(__name__)

START_SECONDS = 300.0
"""Time for imports, rendezvous and loading the policy."""
GENERATIONS_KEPT = 2
"""Generations whose keys stay in the registry: as many as there are segments."""
TRAINER_PROGRAM = "tandem_sidecars.megatron"


class WrongPhase(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A request belongs to another epoch than the one this member is in."""


class TrainSide:
    """See Side."""

    def __init__(self, around: Surroundings, token: GpuToken) -> None:
        self._around = around
        self._token = token
        self._ranks: RankGroup | None = None
        self._layout = self._segment_layout()
        self._busy = asyncio.Lock()
        self._epoch = 0
        self._training = False
        self._started = False
        self.exports = Exports(around.settings.shared)
        """What other pods may read of this pod's segments."""

    @property
    def role(self) -> Role:
        return "train"

    @property
    def awaited(self) -> bool:
        return True

    def record(self) -> MemberRecord:
        settings = self._around.settings
        return MemberRecord(
            incarnation=self._around.incarnation,
            attempt=settings.attempt,
            role="train",
            address=settings.address,
            port=ENGINE_PORT_TRAIN,
            rendezvous_port=RENDEZVOUS_PORT,
            num_ranks=settings.config.spec.hybrid.gpus_per_pod,
        )

    async def start(self) -> Outcome:
        """Start the ranks under the token: they hold the devices until the first export."""
        allocate(self._around.settings.shared, self._layout.num_bytes)
        first = await self._around.mirror.wait(self._first_member)
        async with asyncio.timeout(START_SECONDS):
            await self._token.acquire(START_SECONDS)
            self._ranks = await RankGroup.start(
                [sys.executable, "-m", TRAINER_PROGRAM, *self._arguments()],
                child_variables(self._around.settings),
                self._places(first),
                inherit=(self._token.descriptor,),
            )
            await self._ranks.ready()
        self._started = True
        return Outcome(MemberState.IDLE, None, self._ranks.device_bytes)

    async def to_infer(self, desired: Desired, stopwatch: Stopwatch) -> Outcome:
        with stopwatch.stage("drain"):
            self._training = False
            await self._busy.acquire()
        try:
            with stopwatch.stage("export"):
                await self._export(desired.generation)
            with stopwatch.stage("offload"):
                moved = await self._group.ask(lambda _: Offload(), Moved)
                self._token.release()
        finally:
            self._busy.release()
        return Outcome(MemberState.IDLE, desired.generation, sum(answer.device_bytes for answer in moved))

    async def to_train(self, desired: Desired, stopwatch: Stopwatch) -> Outcome:
        spec = self._around.settings.config.spec
        await self._token.acquire(spec.switch.infer_to_train_deadline_seconds)
        with stopwatch.stage("reload"):
            async with self._busy:
                moved = await self._group.ask(lambda _: Reload(), Moved)
        with stopwatch.stage("ready"):
            self._epoch = desired.epoch
            self._training = True
        return Outcome(MemberState.TRAINING, desired.generation, sum(answer.device_bytes for answer in moved))

    async def train(self, request: TrainRequest) -> TrainResponse:
        """Run one batch; raise WrongPhase for a batch of another epoch (invariant 5)."""
        async with self._busy:
            if not self._training or request.epoch != self._epoch:
                raise WrongPhase(f"the batch is of epoch {request.epoch}, this trainer is in epoch {self._epoch}")
            began = asyncio.get_running_loop().time()
            answers = await self._group.ask(lambda rank: _part(request, rank), Trained)
        return TrainResponse(
            max_abs_logprob_difference=answers[0].max_abs_logprob_difference,
            kl=answers[0].kl,
            steps=answers[0].steps,
            num_tokens=answers[0].num_tokens,
            seconds=asyncio.get_running_loop().time() - began,
        )

    async def save(self, request: SaveRequest) -> SaveResponse:
        """Write the current weights to disk, in whatever phase; raise WrongPhase before there are any."""
        async with self._busy:
            if not self._started:
                raise WrongPhase(
                    "this trainer is still starting and holds no weights yet; ask again once /readyz says so"
                )
            saved = await self._group.ask_first(Save(path=request.path), Saved)
        return SaveResponse(path=request.path, num_bytes=saved.num_bytes)

    async def first_end(self) -> str:
        return await self._group.first_end()

    async def close(self) -> None:
        if self._ranks is not None:
            await self._ranks.kill()
        self._token.release()

    @property
    def _group(self) -> RankGroup:
        assert self._ranks is not None
        return self._ranks

    def _segment_layout(self) -> SegmentLayout:
        spec = self._around.settings.config.spec
        config: PolicyConfig = read_policy_config(Path(spec.policy.model.path))
        return segment_layout(config, spec.policy.dtype.value.lower())

    def _first_member(self, mirror: Mirror) -> MemberRecord | None:
        """Return the trainer that holds rank 0, once all trainers of this attempt are registered.

        A pod may wait for its devices for hours; ranks that have been started wait for each other for minutes only.
        """
        settings = self._around.settings
        raw = [mirror.values.get(settings.keys.member(pod, "train")) for pod in settings.config.hybrid_pods]
        records = [MemberRecord.model_validate_json(text) for text in raw if text]
        here = [record for record in records if record.attempt == settings.attempt]
        return here[0] if len(here) == len(raw) else None

    def _places(self, first: MemberRecord) -> list[RankPlace]:
        settings = self._around.settings
        pods = settings.config.hybrid_pods
        per_pod = settings.config.spec.hybrid.gpus_per_pod
        ordinal = pods.index(settings.pod)
        return [
            RankPlace(
                rank=ordinal * per_pod + local,
                world_size=len(pods) * per_pod,
                local_rank=local,
                rendezvous_address=first.address,
                rendezvous_port=first.rendezvous_port or RENDEZVOUS_PORT,
            )
            for local in range(per_pod)
        ]

    def _arguments(self) -> Sequence[str]:
        settings = self._around.settings
        return ("--policy", str(newest_weights(settings.state, Path(settings.config.spec.policy.model.path))))

    async def _export(self, generation: int) -> None:
        """Write the segment and register it: layout first, then this pod's shards."""
        settings, registry = self._around.settings, self._around.registry
        segment = segment_name(generation)
        self.exports.forget(generation)
        answers = await self._group.ask(lambda _: Export(segment=str(settings.shared / segment)), Exported)
        shards = [
            Shard(
                generation=generation,
                incarnation=self._around.incarnation,
                segment=segment,
                segment_bytes=self._layout.num_bytes,
                pieces=answer.pieces,
            )
            for answer in answers
        ]
        self.exports.add(generation, shards)
        await self._register_layout(generation, len(answers))
        for index, shard in enumerate(shards):
            await registry.put(
                settings.keys.shard(generation, settings.pod, index), shard.model_dump_json(), lease=self._around.lease
            )
        if generation >= GENERATIONS_KEPT:
            await registry.delete(f"{settings.keys.prefix}weights/{generation - GENERATIONS_KEPT}/")

    async def _register_layout(self, generation: int, num_ranks: int) -> None:
        settings = self._around.settings
        layout = Layout(
            generation=generation,
            tensors=self._layout.tensors,
            shards=tuple(f"{pod}/{index}" for pod in settings.config.hybrid_pods for index in range(num_ranks)),
        )
        key = settings.keys.layout(generation)
        try:
            await self._around.registry.transact([Absent(key)], [Put(key, layout.model_dump_json())])
        except Fenced:
            logger.debug("another pod registered the layout of generation %d first", generation)


def newest_weights(state: Path | None, policy: Path) -> Path:
    """Return the newest complete checkpoint's folder, else the initial policy's."""
    pointer = state / "checkpoints" / "latest" if state else None
    if pointer is None or not pointer.is_file():
        return policy
    return pointer.parent / pointer.read_text().strip()


def _part(request: TrainRequest, local_rank: int) -> Train:
    return Train(
        max_logprob_difference=request.max_logprob_difference,
        steps=tuple(step[local_rank] for step in request.steps),
        samples_per_step=request.samples_per_step,
    )
