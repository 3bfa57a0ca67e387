"""A zygote that imports nothing; its servers take one word from their command line.

`serve`: go through every step. `fail`: report a failure instead of loading. `die`: exit with code 7 once prepared, with
a last word. `deaf`: never answer an abort. `family`: like serve, with a child in the group. `leaky`: like serve, with
shared memory that is left behind when it is killed, whose name it prints, and a temporary file.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import (
    SERVER_COMMAND,
    Abort,
    Bind,
    Examine,
    Exited,
    Fingerprinted,
    Fork,
    Forked,
    Go,
    ServerCommand,
    ServerFailed,
    ServerStep,
    Sleep,
    ZygoteReady,
)
from tandem_checkpoint.process.parent import die_with_parent


def main() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--descriptors", type=int, required=True)
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--broken-unless", type=Path, help="exit at once where this file is there; else make it")
    parser.add_argument("--grow-bytes", type=int, default=0, help="hold so much more memory after each fork")
    options = parser.parse_args()
    if options.broken or (options.broken_unless and options.broken_unless.exists()):
        sys.exit(3)
    if options.broken_unless:
        options.broken_unless.touch()
    channel = ChildChannel.inherited()
    if options.silent:
        signal.pause()
    signal.signal(signal.SIGCHLD, lambda *_: _report_endings(channel))
    channel.send(ZygoteReady(num_threads=1).model_dump_json())
    try:
        _serve(channel, socket.socket(fileno=options.descriptors), options.grow_bytes)
    except ChannelClosed:
        return


def _serve(channel: ChildChannel, descriptors: socket.socket, grow_bytes: int) -> None:
    grown: list[bytes] = []
    while True:
        command = Fork.model_validate_json(channel.receive())
        _, (end, output), _, _ = socket.recv_fds(descriptors, 64, 2)
        grown.append(b"x" * grow_bytes)
        pid = os.fork()
        if pid == 0:
            os.dup2(output, 1)
            os.dup2(output, 2)
            _become_server(ChildChannel(socket.socket(fileno=end)), command)
        os.close(end)
        os.close(output)
        channel.send(Forked(pid=pid).model_dump_json())


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


def _become_server(channel: ChildChannel, command: Fork) -> None:
    os.setsid()
    os.environ.pop("TANDEM_PARENT_PID", None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent()
    manner = command.arguments[0]
    if manner == "family":
        subprocess.Popen(["sleep", "60"])
    if manner == "leaky":
        Path(command.scratch, "vllm_dist_0123").touch()
        leak = SharedMemory(create=True, size=4096)
        os.write(1, f"{leak.name}\n".encode())
    _step(channel, "prepared")
    if manner == "die":
        os.write(1, b"Traceback (most recent call last):\n  File 'x.py', line 1\nValueError: no such head\n")
        os._exit(7)
    try:
        while True:
            _obey(SERVER_COMMAND.validate_json(channel.receive()), channel, manner)
    except ChannelClosed:
        os._exit(0)


def _obey(command: ServerCommand, channel: ChildChannel, manner: str) -> None:
    match command:
        case Go():
            _step(channel, "loading")
        case Bind() if manner == "fail":
            channel.send(ServerFailed(reason="checksum of model.norm.weight differs").model_dump_json())
            os._exit(1)
        case Bind():
            _step(channel, "loaded")
            _step(channel, "listening")
        case Examine():
            channel.send(Fingerprinted(boxes=()).model_dump_json())
        case Abort() if manner == "deaf":
            time.sleep(60)
        case Abort():
            _step(channel, "aborted")
        case Sleep():
            _step(channel, "asleep")


def _step(channel: ChildChannel, step: str) -> None:
    channel.send(ServerStep.model_validate({"step": step}).model_dump_json())


if __name__ == "__main__":
    main()
