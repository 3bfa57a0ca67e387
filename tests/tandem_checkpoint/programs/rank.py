"""A trainer rank without a trainer. It takes one word from its command line.

`obey`: answer every command. `refuse`: rank 3 refuses to offload. `die`: rank 3 dies of an offload, rank 2 never
answers it. `slow`: an offload takes its time. `unreadable`: there are no weights to build from.
"""

import os
import sys
import time

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import (
    RANK_COMMAND,
    Build,
    Moved,
    Offload,
    RankAnswer,
    RankCommand,
    Ready,
    Refused,
    Reload,
    Save,
    Saved,
    SaveOptimizer,
)

SLOW_SECONDS = 2.0
"""Ten times as long as tests wait for an answer that is to come too late."""


def main() -> None:
    channel = ChildChannel.inherited()
    manner = sys.argv[1]
    try:
        build = RANK_COMMAND.validate_json(channel.receive())
        assert isinstance(build, Build)
        rank = build.place.rank
        refused = Refused(reason="/policy holds no weights")
        channel.send((refused if manner == "unreadable" else Ready(device_bytes=100 + rank)).model_dump_json())
        while True:
            channel.send(_obey(RANK_COMMAND.validate_json(channel.receive()), manner, rank).model_dump_json())
    except ChannelClosed:
        return


def _obey(command: RankCommand, manner: str, rank: int) -> RankAnswer:
    match command:
        case Offload():
            return _offload(manner, rank)
        case Reload():
            return Moved(device_bytes=1000 + rank)
        case Save() | SaveOptimizer():
            return Saved(num_bytes=7)
        case _:
            raise AssertionError(command)


def _offload(manner: str, rank: int) -> RankAnswer:
    if manner == "slow":
        time.sleep(SLOW_SECONDS)
    if manner == "die":
        os._exit(9) if rank == 3 else time.sleep(60)
    if manner == "refuse" and rank == 3:
        return Refused(reason="rank 3 will not")
    return Moved(device_bytes=rank)


if __name__ == "__main__":
    main()
