"""What somebody should hold, worked out from whole tensors, and the self-test of servers against it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from tandem_api.weights import BoxFingerprint, TensorInfo
from tandem_checkpoint.process.commands import Fingerprinted
from tandem_checkpoint.segments.holdings import Holding, compare, holding_of
from tandem_checkpoint.switch.strategies.strategy import Strategy
from tandem_sidecars.fingerprint import fingerprint_of
from tests.tandem_sidecars.training import weights_in

Tensors = Mapping[str, torch.Tensor]


def infos_of(tensors: Tensors) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape))
        for name, tensor in tensors.items()
    )


def whole(tensors: Tensors) -> Holding:
    """Return what holds just these tensors."""
    boxes = [
        BoxFingerprint(
            tensor=name,
            start=(0,) * tensor.dim(),
            stop=tuple(tensor.shape),
            value=fingerprint_of(tensor, (0,) * tensor.dim(), tensor.dtype),
        )
        for name, tensor in tensors.items()
    ]
    return holding_of("the trainer", boxes, infos_of(tensors))


def held(answers: Sequence[Fingerprinted], tensors: Tensors) -> Holding:
    """Return what ranks together, or a server, say that they hold. Args: tensors: for their names and shapes."""
    boxes = [box for answer in answers for box in answer.boxes]
    misfits = [misfit for answer in answers for misfit in answer.misfits]
    return holding_of("the server", boxes, infos_of(tensors), misfits)


async def self_test(strategy: Strategy, policy: Path) -> int:
    """Compare what the one server of a strategy holds with a policy's folder; return how many tensors are equal.

    Raises: SelfTestFailed.
    """
    tensors = weights_in(policy)
    (answer,) = await strategy.examine()
    trainer = whole(tensors)
    compare(trainer, [held([answer], tensors)], None)
    return trainer.num_tensors
