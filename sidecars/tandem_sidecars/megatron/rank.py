"""A rank's state and what each command does to it."""

import logging
from pathlib import Path
from typing import assert_never

import torch

from tandem_api.engine import JobConfig
from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig, read_policy_config
from tandem_checkpoint.process.commands import (
    Export,
    Exported,
    Moved,
    RankAnswer,
    RankCommand,
    Refused,
    Reload,
    Save,
    Saved,
    Train,
)
from tandem_checkpoint.process.commands import Offload as OffloadCommand
from tandem_checkpoint.segments.layout import segment_layout
from tandem_sidecars.megatron.device import choose_device
from tandem_sidecars.megatron.export import SegmentWriter
from tandem_sidecars.megatron.model import build_model, build_optimizer
from tandem_sidecars.megatron.offload import Offload
from tandem_sidecars.megatron.parallel import Place, join
from tandem_sidecars.megatron.save import save_folder
from tandem_sidecars.megatron.trainer import PassRule, Trainer
from tandem_sidecars.megatron.weights import named_tensors, read_folder, to_megatron

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
        forget: bool,
    ) -> None:
        self._policy = policy
        self._origin = origin
        self._trainer = trainer
        self._offload = offload
        self._writer = writer
        self._forget = forget
        self.device_bytes = offload.held_bytes()

    @classmethod
    def build(cls, config: JobConfig, folder: Path) -> "Rank":
        """Join the other ranks and build the model with the weights of a Hugging Face folder.

        `folder` may be a checkpoint, which goes once newer ones are complete. Configuration and tokenizer come from the
        initial policy, which stays.
        """
        spec, origin = config.spec, Path(config.spec.policy.model.path)
        place = Place.from_environment()
        device = choose_device(config.device, place.local_rank)
        device.prepare()
        join(place, device)
        policy = read_policy_config(origin)
        dtype = DTYPES[spec.policy.dtype.value]
        model = build_model(policy, dtype, device)
        load(model.module, policy, folder)
        optimizer = build_optimizer(model, spec.trainer.optimizer, dtype)
        rule = PassRule(spec.recipe.objective, spec.recipe.temperature, spec.trainer.micro_batch_tokens)
        layout = segment_layout(policy, spec.policy.dtype.value.lower())
        return cls(
            policy,
            origin,
            Trainer(model, optimizer, rule, device.torch_device),
            Offload(model, optimizer, device),
            SegmentWriter(layout, policy, place.local_rank, spec.hybrid.gpus_per_pod),
            spec.recipe.objective.reset_optimizer,
        )

    def obey(self, command: RankCommand) -> RankAnswer:
        """Carry out one command."""
        match command:
            case Export():
                return Exported(pieces=self._writer.write(Path(command.segment), self._offload.parameters()))
            case OffloadCommand():
                return Moved(device_bytes=self._leave())
            case Reload():
                return Moved(device_bytes=self._offload.come_back())
            case Train():
                if self._offload.parked:
                    return Refused(reason="the trainer is offloaded; switch to Train first")
                return self._trainer.train(command)
            case Save():
                return self._save(Path(command.path))
            case _:
                assert_never(command)

    def _leave(self) -> int:
        if self._forget:
            self._trainer.forget()
        return self._offload.leave()

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


def load(module: torch.nn.Module, policy: PolicyConfig, folder: Path) -> None:
    """Fill a model with the weights of a Hugging Face folder."""
    tensors = read_folder(folder)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for rule in architecture_of(policy.architecture).rules(policy):
            parameters.pop(rule.megatron).copy_(to_megatron(rule, tensors, policy))
    if parameters:
        raise ValueError(f"the family's table lacks {sorted(parameters)[:3]}")
