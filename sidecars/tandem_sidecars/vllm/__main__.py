"""The zygote: imports vLLM once, freezes its heap, and forks a server whenever the engine asks.

A restart of `vllm serve` spends nine tenths of its time on imports. A fork has them already; freezing the heap keeps
the garbage collector from walking, and so from copying, what was imported.
"""

import argparse
import gc
import os
import selectors
import signal
import socket
import sys

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import Exited, Fork, Forked, ZygoteReady
from tandem_checkpoint.process.parent import PARENT_VARIABLE, die_with_parent
from tandem_sidecars.vllm.preparation import preload, prepare_environment


def main() -> None:
    """Fork servers until the engine ends."""
    die_with_parent()
    parser = argparse.ArgumentParser(description="fork vLLM servers on demand; started by tandem-engine")
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--descriptors", type=int, required=True)
    options = parser.parse_args()
    channel = ChildChannel.inherited()
    prepare_environment(options.device)
    preload(options.device)
    gc.collect()
    gc.freeze()
    channel.send(ZygoteReady(num_threads=len(os.listdir("/proc/self/task"))).model_dump_json())
    _serve(channel, socket.socket(fileno=options.descriptors), options.device)


def _serve(channel: ChildChannel, descriptors: socket.socket, device: str) -> None:
    """Answer fork requests and report ended servers, until the engine closes the channel."""
    wake, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        selector.register(channel.fileno(), selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            try:
                if wake in ready:
                    os.read(wake, 4096)
                    _report_endings(channel)
                if channel.fileno() in ready:
                    command = Fork.model_validate_json(channel.receive())
                    _fork(channel, descriptors, command, device)
            except ChannelClosed:
                return


def _fork(channel: ChildChannel, descriptors: socket.socket, command: Fork, device: str) -> None:
    """Fork one server; in the child this does not return."""
    _, received, _, _ = socket.recv_fds(descriptors, 64, 1)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    pid = os.fork()
    if pid == 0:
        _become_server(ChildChannel(socket.socket(fileno=received[0])), command, device)
    os.close(received[0])
    channel.send(Forked(pid=pid).model_dump_json())


def _become_server(channel: ChildChannel, command: Fork, device: str) -> None:
    """Run a server in this process and end it with the server."""
    code = 1
    try:
        os.setsid()
        die_with_parent()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from tandem_sidecars.vllm.server import run

        code = run(channel, command.arguments, device)
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


def _report_endings(channel: ChildChannel) -> None:
    """Reap every ended server and tell the engine."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        channel.send(Exited(pid=pid, returncode=os.waitstatus_to_exitcode(status)).model_dump_json())


if __name__ == "__main__":
    main()
