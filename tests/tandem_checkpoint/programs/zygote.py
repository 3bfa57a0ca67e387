"""A zygote that imports nothing; its servers take one word from their command line.

`serve`: go through every step. `fail`: report a failure instead of loading. `die`: exit with code 7 once prepared.
`deaf`: never answer an abort. `family`: like serve, with a child in the group.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import (
    SERVER_COMMAND,
    Exited,
    Fork,
    Forked,
    Go,
    ServerFailed,
    ServerStep,
    ZygoteReady,
)
from tandem_checkpoint.process.parent import die_with_parent


def main() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--descriptors", type=int, required=True)
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--broken", action="store_true")
    options = parser.parse_args()
    if options.broken:
        sys.exit(3)
    channel = ChildChannel.inherited()
    if options.silent:
        signal.pause()
    signal.signal(signal.SIGCHLD, lambda *_: _report_endings(channel))
    channel.send(ZygoteReady(num_threads=1).model_dump_json())
    descriptors = socket.socket(fileno=options.descriptors)
    try:
        while True:
            command = Fork.model_validate_json(channel.receive())
            _, received, _, _ = socket.recv_fds(descriptors, 64, 1)
            pid = os.fork()
            if pid == 0:
                _become_server(ChildChannel(socket.socket(fileno=received[0])), command.arguments[0])
            os.close(received[0])
            channel.send(Forked(pid=pid).model_dump_json())
    except ChannelClosed:
        return


def _report_endings(channel: ChildChannel) -> None:
    """Reap every ended server: one signal may stand for several."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        channel.send(Exited(pid=pid, returncode=os.waitstatus_to_exitcode(status)).model_dump_json())


def _become_server(channel: ChildChannel, manner: str) -> None:
    os.setsid()
    os.environ.pop("TANDEM_PARENT_PID", None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent()
    if manner == "family":
        subprocess.Popen(["sleep", "60"])
    _step(channel, "prepared")
    if manner == "die":
        os._exit(7)
    try:
        assert isinstance(SERVER_COMMAND.validate_json(channel.receive()), Go)
        if manner == "fail":
            channel.send(ServerFailed(reason="checksum of model.norm.weight differs").model_dump_json())
            os._exit(1)
        for step in ("loading", "loaded", "listening"):
            _step(channel, step)
        while True:
            channel.receive()
            if manner != "deaf":
                _step(channel, "aborted")
    except ChannelClosed:
        os._exit(0)


def _step(channel: ChildChannel, step: str) -> None:
    channel.send(ServerStep.model_validate({"step": step}).model_dump_json())


if __name__ == "__main__":
    main()
