"""One trainer rank: started by the engine, obeys its commands, ends with it."""

import logging
import sys
import warnings
from typing import TYPE_CHECKING

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import RANK_COMMAND, Build, Meet, Met, Ready, Refused
from tandem_checkpoint.process.parent import die_with_parent
from tandem_checkpoint.settings import read_job_config

if TYPE_CHECKING:
    from tandem_sidecars.megatron.rank import Rank


def main() -> None:
    """Import everything, build the model once told to, then answer commands until the engine closes the channel."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore")
    channel = ChildChannel.inherited()
    import tandem_sidecars.megatron.rank  # noqa: F401 - seconds of imports, while others still hold the devices

    try:
        rank = _build(channel)
        while True:
            channel.send(rank.obey(RANK_COMMAND.validate_json(channel.receive())).model_dump_json())
    except ChannelClosed:
        return


def _build(channel: ChildChannel) -> "Rank":
    """Wait for the command to build, and return the rank once it stands; whatever else is asked before is refused."""
    from tandem_sidecars.megatron.rank import Rank, meet
    from tandem_sidecars.megatron.source import SOURCE_ERRORS

    config = read_job_config()
    while True:
        command = RANK_COMMAND.validate_json(channel.receive())
        if isinstance(command, Meet):
            meet(config, command.place)
            channel.send(Met().model_dump_json())
            continue
        if not isinstance(command, Build):
            channel.send(Refused(reason="the trainer has no model yet; it is still starting").model_dump_json())
            continue
        try:
            rank = Rank.build(config, command)
        except SOURCE_ERRORS as error:
            channel.send(Refused(reason=str(error)).model_dump_json())
            continue
        channel.send(Ready(device_bytes=rank.device_bytes).model_dump_json())
        return rank


if __name__ == "__main__":
    main()
