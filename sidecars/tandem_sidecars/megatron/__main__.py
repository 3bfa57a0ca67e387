"""One trainer rank: started by the engine, obeys its commands, ends with it."""

import argparse
import logging
import sys
import warnings
from pathlib import Path

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import RANK_COMMAND, Ready
from tandem_checkpoint.process.parent import die_with_parent
from tandem_checkpoint.settings import read_job_config


def main() -> None:
    """Build the model, then answer commands until the engine closes the channel."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description="one Megatron-Core trainer rank; started by tandem-engine")
    parser.add_argument("--policy", type=Path, required=True, help="Hugging Face folder with the weights to start from")
    options = parser.parse_args()
    config = read_job_config()
    channel = ChildChannel.inherited()
    from tandem_sidecars.megatron.rank import Rank

    rank = Rank.build(config, options.policy)
    channel.send(Ready(device_bytes=rank.device_bytes).model_dump_json())
    try:
        while True:
            channel.send(rank.obey(RANK_COMMAND.validate_json(channel.receive())).model_dump_json())
    except ChannelClosed:
        return


if __name__ == "__main__":
    main()
