"""A rank's state and what each command does to it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

import torch
import torch.distributed as dist

from tandem_api.engine import JobConfig
from tandem_checkpoint.architectures.config import PolicyConfig, read_policy_config
from tandem_checkpoint.disk.writing import FolderIncomplete
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.pod import PodRanks, split_of
from tandem_checkpoint.layouts.shares import shares_of
from tandem_checkpoint.layouts.strip import LocalParameter
from tandem_checkpoint.layouts.trainer import trainer_layout
from tandem_checkpoint.process.commands import (
    Build,
    Export,
    Exported,
    Fingerprint,
    Fingerprinted,
    Load,
    Loaded,
    Meet,
    Moved,
    RankAnswer,
    RankCommand,
    RankPlace,
    Refused,
    Reload,
    Save,
    Saved,
    SaveOptimizer,
    SaveStep,
    Train,
    Trained,
)
from tandem_checkpoint.process.commands import Offload as OffloadCommand
from tandem_checkpoint.segments.layout import SegmentLayout, segment_layout
from tandem_sidecars.megatron.device import Device, choose_device
from tandem_sidecars.megatron.examination import Examiner
from tandem_sidecars.megatron.export import SegmentWriter
from tandem_sidecars.megatron.model import build_model, build_optimizer
from tandem_sidecars.megatron.offload import Offload, weights_of
from tandem_sidecars.megatron.parallel import join, seed
from tandem_sidecars.megatron.save import FolderSaver
from tandem_sidecars.megatron.source import SOURCE_ERRORS, open_source
from tandem_sidecars.megatron.trainer import PassRule, Trainer

logger = logging.getLogger(__name__)

DTYPES = {"Float32": torch.float32, "BFloat16": torch.bfloat16}


class Rank:
    """One rank of the trainer."""

    def __init__(
        self,
        local: Sequence[LocalParameter],
        trainer: Trainer,
        offload: Offload,
        writer: SegmentWriter,
        saver: FolderSaver,
        examiner: Examiner,
        layout: SegmentLayout,
        forget: bool,
    ) -> None:
        self._local = local
        self._trainer = trainer
        self._offload = offload
        self._writer = writer
        self._saver = saver
        self._examiner = examiner
        self._layout = layout
        self._forget = forget
        self.device_bytes = offload.held_bytes()

    @classmethod
    def build(cls, config: JobConfig, command: Build) -> "Rank":
        """Build the model with the weights of the command's source, among the ranks that this one has met or meets now.

        The source may be a checkpoint, which goes once newer ones are complete. Configuration and tokenizer come from
        the initial policy, which stays. Raises: SOURCE_ERRORS, before any other rank is waited for.
        """
        spec, origin, place = config.spec, Path(config.spec.policy.model.path), command.place
        policy = read_policy_config(origin)
        layout = segment_layout(policy, spec.policy.dtype.value.lower())
        split, num_ranks = split_of(spec.trainer.parallelism), spec.hybrid.gpus_per_pod
        pod = PodRanks(split, num_ranks, max(1, place.world_size // num_ranks), place.pod)
        places = pod.places()
        local = trainer_layout(policy, places[place.local_rank])
        source = open_source(command.source, layout, local)
        device = meet(config, place)
        seed(device)
        dtype = DTYPES[spec.policy.dtype.value]
        chunks = build_model(policy, dtype, device, split)
        source.fill(dict(weights_of(chunks)))
        del source
        optimizer = build_optimizer(chunks, spec.trainer.optimizer, dtype)
        rule = PassRule(
            spec.recipe.objective,
            spec.trainer.optimizer,
            spec.recipe.iterations,
            spec.recipe.temperature,
            spec.trainer.micro_batch_tokens,
            policy.vocabulary,
        )
        trainer = Trainer(chunks, optimizer, rule, device.torch_device)
        trainer.memory.expect(command.optimizer)
        return cls(
            local,
            trainer,
            Offload(chunks, optimizer, device),
            SegmentWriter(layout, policy, places, place.local_rank),
            _saver(layout, origin, policy, pod, place.local_rank),
            Examiner(layout, policy.block_scales, local, place.local_rank, len(places)),
            layout,
            spec.recipe.objective.reset_optimizer,
        )

    def obey(self, command: RankCommand) -> RankAnswer:
        """Carry out one command."""
        match command:
            case Build() | Meet():
                return Refused(reason="this rank has its model already")
            case Load():
                return self._load(command)
            case Export():
                return Exported(pieces=self._writer.write(Path(command.segment), self._offload.parameters()))
            case Fingerprint():
                return self._examine(command)
            case OffloadCommand():
                return self._leave()
            case Reload():
                self._offload.come_back()
                return Moved(device_bytes=self._offload.held_bytes())
            case Train():
                return self._train(command)
            case Save() | SaveOptimizer():
                return self._save(command)
            case _:
                assert_never(command)

    def _train(self, command: Train) -> Trained | Refused:
        if self._offload.parked:
            return Refused(reason="the trainer is offloaded; switch to Train first")
        return self._trainer.train(command)

    def _load(self, command: Load) -> Loaded | Refused:
        """Hold other weights from now on. Whatever is wrong with the source is found before the first one changes."""
        if self._offload.parked:
            return Refused(reason="the trainer is offloaded; switch to Train first")
        try:
            open_source(command.source, self._layout, self._local).fill(self._offload.parameters())
        except SOURCE_ERRORS as error:
            return Refused(reason=str(error))
        self._trainer.restart()
        self._trainer.memory.expect(command.optimizer)
        return Loaded(device_bytes=self._offload.held_bytes())

    def _examine(self, command: Fingerprint) -> Fingerprinted | Refused:
        try:
            return self._examiner.examine(command, self._offload.parameters())
        except SOURCE_ERRORS as error:
            return Refused(reason=str(error))

    def _leave(self) -> Moved:
        if self._forget:
            self._trainer.forget()
        freed = self._offload.leave()
        return Moved(device_bytes=self._offload.held_bytes(), freed=freed)

    def _save(self, command: Save | SaveOptimizer) -> Saved | Refused:
        if isinstance(command, SaveOptimizer):
            folder, what = Path(command.checkpoint), "optimizer's state"
        else:
            folder, what = Path(command.path), "policy"
        try:
            if isinstance(command, SaveOptimizer):
                return self._save_optimizer(folder, command)
            return Saved(num_bytes=self._saver.save(folder, command.step, self._offload.parameters()))
        except OSError as error:
            return Refused(reason=f"{folder}: the {what} cannot be written ({error.strerror}); free space or permit it")
        except FolderIncomplete as error:
            return Refused(reason=str(error))

    def _save_optimizer(self, checkpoint: Path, command: SaveOptimizer) -> Saved | Refused:
        if command.step is SaveStep.COMMIT:
            return Saved(num_bytes=self._trainer.memory.finish(checkpoint))
        if self._offload.parked:
            return Refused(reason="the trainer is offloaded; switch to Train first")
        self._trainer.memory.save(checkpoint)
        return Saved(num_bytes=0)


def meet(config: JobConfig, place: RankPlace) -> Device:
    """Find the other ranks, unless that was done before; return this rank's device, on which nothing is held by it."""
    device = choose_device(config.device, place.local_rank)
    if not dist.is_initialized():
        device.prepare()
        join(place, split_of(config.spec.trainer.parallelism), device)
    return device


def _saver(layout: SegmentLayout, origin: Path, policy: PolicyConfig, pod: PodRanks, local_rank: int) -> FolderSaver:
    """Return what saves this rank's share: of those of its pod where that holds everything, else of all pods'.

    A rank that holds everything saves all of it alone.
    """
    places = pod.places()
    if pod.split == TrainerSplit():
        return FolderSaver(layout, origin, shares_of(policy, places[:1]), 0)
    if pod.is_whole:
        return FolderSaver(layout, origin, shares_of(policy, places), local_rank)
    places = tuple(place for each in pod.pods() for place in each.places())
    return FolderSaver(layout, origin, shares_of(policy, places), pod.ordinal * pod.num_ranks + local_rank)
