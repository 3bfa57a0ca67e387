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
import tempfile
from typing import TYPE_CHECKING

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import Exited, Fork, Forked, ZygoteReady
from tandem_checkpoint.process.parent import PARENT_VARIABLE, die_with_parent
from tandem_sidecars.vllm.preparation import preload, prepare_environment

if TYPE_CHECKING:  # it imports vLLM, which reads the environment that is prepared first
    from tandem_sidecars.vllm.recipes import Recipe


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
    _serve(channel, socket.socket(fileno=options.descriptors))


def _serve(channel: ChildChannel, descriptors: socket.socket) -> None:
    """Answer fork requests and report ended servers, until the engine closes the channel."""
    from tandem_sidecars.vllm.recipes import Recipes

    recipes = Recipes()
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
                    _fork(channel, descriptors, command, recipes.recipe_of(command.arguments))
            except ChannelClosed:
                return


def _fork(channel: ChildChannel, descriptors: socket.socket, command: Fork, recipe: "Recipe | None") -> None:
    """Fork one server; in the child this does not return."""
    _, (end, output), _, _ = socket.recv_fds(descriptors, 64, 2)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    pid = os.fork()
    if pid == 0:
        _become_server(ChildChannel(socket.socket(fileno=end)), output, command, recipe)
    os.close(end)
    os.close(output)
    channel.send(Forked(pid=pid).model_dump_json())


def _become_server(channel: ChildChannel, output: int, command: Fork, recipe: "Recipe | None") -> None:
    """Run a server in this process and end it with the server."""
    code = 1
    try:
        os.setsid()
        _redirect(output, command.scratch)
        die_with_parent()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from tandem_sidecars.vllm.server import run

        code = run(channel, command.arguments, recipe)
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


def _redirect(output: int, scratch: str) -> None:
    """Have this process and its children print into the server's pipe and put temporary files into its folder."""
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.close(output)
    if scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch


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
