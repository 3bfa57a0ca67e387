"""A child of the engine that makes a child of its own, says its pid, and answers by an echo until told otherwise."""

import os
import subprocess
import sys

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.parent import die_with_parent


def main() -> None:
    die_with_parent()
    channel = ChildChannel.inherited()
    child = subprocess.Popen(["sleep", "60"])
    channel.send(str(child.pid))
    try:
        while (line := channel.receive()) != "exit":
            channel.send(line)
    except ChannelClosed:
        return
    os._exit(int(sys.argv[1]))


if __name__ == "__main__":
    main()
