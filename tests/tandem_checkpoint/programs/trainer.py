"""A trainer rank without a model, which does at once whatever it is told.

Its weights are one number, the count of optimizer steps; an export tells it as a checksum.
"""

from typing import assert_never

from tandem_api.engine import StepMetrics
from tandem_api.weights import Piece
from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import (
    RANK_COMMAND,
    Build,
    Export,
    Exported,
    Fingerprint,
    Fingerprinted,
    Load,
    Loaded,
    Meet,
    Met,
    Moved,
    Offload,
    RankAnswer,
    RankCommand,
    Ready,
    Reload,
    Save,
    Saved,
    SaveOptimizer,
    Train,
    Trained,
)

STEP = StepMetrics(loss=0.5, gradient_norm=1.0)


def main() -> None:
    channel, num_steps = ChildChannel.inherited(), 0
    try:
        while True:
            command = RANK_COMMAND.validate_json(channel.receive())
            num_steps += len(command.steps) if isinstance(command, Train) else 0
            channel.send(_answer(command, num_steps).model_dump_json())
    except ChannelClosed:
        return


def _answer(command: RankCommand, num_steps: int) -> RankAnswer:
    match command:
        case Meet():
            return Met()
        case Build():
            return Ready(device_bytes=0)
        case Load():
            return Loaded(device_bytes=0)
        case Export():
            piece = Piece(tensor="steps", start=(0,), stop=(1,), offset_bytes=0, num_bytes=0, xxh3=num_steps)
            return Exported(pieces=(piece,))
        case Fingerprint():
            return Fingerprinted(boxes=())
        case Offload() | Reload():
            return Moved(device_bytes=0)
        case Train():
            return Trained(max_abs_logprob_difference=0.0, kl=0.0, steps=(STEP,) * len(command.steps), num_tokens=0)
        case Save() | SaveOptimizer():
            return Saved(num_bytes=0)
        case _:
            assert_never(command)


if __name__ == "__main__":
    main()
