"""A rank's state and what each command does to it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import assert_never

import torch
import torch.distributed as dist

from tandem_api.engine import JobConfig
from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig, read_policy_config
from tandem_checkpoint.process.commands import (
    Build,
    Export,
    Exported,
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
    Train,
    WeightSource,
)
from tandem_checkpoint.process.commands import Offload as OffloadCommand
from tandem_checkpoint.segments.layout import SegmentLayout, segment_layout
from tandem_sidecars.megatron.device import Device, choose_device
from tandem_sidecars.megatron.export import SegmentWriter
from tandem_sidecars.megatron.model import build_model, build_optimizer
from tandem_sidecars.megatron.offload import Offload
from tandem_sidecars.megatron.parallel import join, seed
from tandem_sidecars.megatron.save import save_folder
from tandem_sidecars.megatron.source import SOURCE_ERRORS, read_source
from tandem_sidecars.megatron.trainer import PassRule, Trainer
from tandem_sidecars.megatron.weights import named_tensors, to_megatron

logger = logging.getLogger(__name__)

DTYPES = {"Float32": torch.float32, "BFloat16": torch.bfloat16}


class Rank:
    """One rank of the trainer."""

    def __init__(
        self,
        policy: PolicyConfig,
        origin: Path,
        trainer: Trainer,
        offload: Offload,
        writer: SegmentWriter,
        layout: SegmentLayout,
        forget: bool,
    ) -> None:
        self._policy = policy
        self._origin = origin
        self._trainer = trainer
        self._offload = offload
        self._writer = writer
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
        tensors = read_source(command.source, layout)
        device = meet(config, place)
        seed(device)
        dtype = DTYPES[spec.policy.dtype.value]
        model = build_model(policy, dtype, device)
        fill(dict(model.module.named_parameters()), policy, tensors)
        del tensors
        optimizer = build_optimizer(model, spec.trainer.optimizer, dtype)
        rule = PassRule(spec.recipe.objective, spec.recipe.temperature, spec.trainer.micro_batch_tokens)
        return cls(
            policy,
            origin,
            Trainer(model, optimizer, rule, device.torch_device),
            Offload(model, optimizer, device),
            SegmentWriter(layout, policy, place.local_rank, spec.hybrid.gpus_per_pod),
            layout,
            spec.recipe.objective.reset_optimizer,
        )

    def obey(self, command: RankCommand) -> RankAnswer:
        """Carry out one command."""
        match command:
            case Build() | Meet():
                return Refused(reason="this rank has its model already")
            case Load():
                return self._load(command.source)
            case Export():
                return Exported(pieces=self._writer.write(Path(command.segment), self._offload.parameters()))
            case OffloadCommand():
                return self._leave()
            case Reload():
                self._offload.come_back()
                return Moved(device_bytes=self._offload.held_bytes())
            case Train():
                if self._offload.parked:
                    return Refused(reason="the trainer is offloaded; switch to Train first")
                return self._trainer.train(command)
            case Save():
                return self._save(Path(command.path))
            case _:
                assert_never(command)

    def _load(self, source: WeightSource) -> Loaded | Refused:
        """Hold other weights from now on. Whatever is wrong with the source is found before the first one changes."""
        if self._offload.parked:
            return Refused(reason="the trainer is offloaded; switch to Train first")
        try:
            tensors = read_source(source, self._layout)
        except SOURCE_ERRORS as error:
            return Refused(reason=str(error))
        fill(self._offload.parameters(), self._policy, tensors)
        self._trainer.restart()
        return Loaded(device_bytes=self._offload.held_bytes())

    def _leave(self) -> Moved:
        if self._forget:
            self._trainer.forget()
        freed = self._offload.leave()
        return Moved(device_bytes=self._offload.held_bytes(), freed=freed)

    def _save(self, folder: Path) -> Saved | Refused:
        rules = architecture_of(self._policy.architecture).rules(self._policy)
        tensors = {
            name: tensor.detach().cpu()
            for name, tensor in named_tensors(rules, self._offload.parameters(), self._policy)
        }
        try:
            return Saved(num_bytes=save_folder(folder, self._origin, tensors))
        except OSError as error:
            return Refused(reason=f"{folder}: the policy cannot be written ({error.strerror}); free space or permit it")


def meet(config: JobConfig, place: RankPlace) -> Device:
    """Find the other ranks, unless that was done before; return this rank's device, on which nothing is held by it."""
    device = choose_device(config.device, place.local_rank)
    if not dist.is_initialized():
        device.prepare()
        join(place, device)
    return device


def fill(parameters: Mapping[str, torch.Tensor], policy: PolicyConfig, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy Hugging Face tensors into a model's parameters, which go by their Megatron names."""
    rules = {rule.megatron: rule for rule in architecture_of(policy.architecture).rules(policy)}
    if parameters.keys() != rules.keys():
        raise ValueError(f"the family's table differs from the model in {sorted(parameters.keys() ^ rules.keys())[:3]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(to_megatron(rules[name], tensors, policy))
