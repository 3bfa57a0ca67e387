"""Trainer programs by fork: Megatron is imported once, each rank is a process that speaks the real protocol."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self, TypeVar

from tandem_api.engine import JobConfig
from tandem_checkpoint.process.channel import CHANNEL_VARIABLE
from tandem_checkpoint.process.commands import RANK_ANSWER, RankAnswer, RankCommand, Ready
from tandem_checkpoint.process.ranks import RankPlace
from tests.tandem_checkpoint.etcd_process import free_address

START_SECONDS = 120.0
ANSWER_SECONDS = 60.0
Answer = TypeVar("Answer")


class RankProcess:
    """One running trainer program."""

    def __init__(self, process: multiprocessing.context.ForkServerProcess, end: socket.socket) -> None:
        self._process = process
        self._end = end
        self._lines = end.makefile("rb")

    def send(self, command: RankCommand) -> None:
        self.send_line(command.model_dump_json())

    def send_line(self, line: str) -> None:
        self._end.sendall(line.encode() + b"\n")

    def receive(self, deadline_seconds: float = ANSWER_SECONDS) -> RankAnswer:
        self._end.settimeout(deadline_seconds)
        return RANK_ANSWER.validate_json(self._lines.readline())

    def ask(self, command: RankCommand, wanted: type[Answer]) -> Answer:
        """Send a command and return its answer, which must be of the wanted kind."""
        self.send(command)
        answer = self.receive()
        assert isinstance(answer, wanted), answer
        return answer

    def close(self) -> None:
        """Close the channel: the program ends by itself."""
        self._lines.close()
        self._end.close()
        self._process.join(ANSWER_SECONDS)
        self._process.kill()


class Forge:
    """Starts ranks. Closing it ends them; the process that has Megatron imported stays for the next one."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tandem_sidecars.megatron.rank"])
        self._running = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def start(self, config: JobConfig, folder: Path, weights: Path | None = None) -> RankProcess:
        """Start the only rank of a job; `folder`: scratch. Return it once it is ready."""
        return self.start_all(config, folder, [RankPlace(0, 1, 0, "127.0.0.1", 0)], weights)[0]

    def start_all(
        self, config: JobConfig, folder: Path, places: Sequence[RankPlace], weights: Path | None = None
    ) -> list[RankProcess]:
        """Start all ranks of a job from `weights`, else its initial policy. Return them once they are ready."""
        path = folder / "job.json"
        path.write_text(config.model_dump_json())
        ranks = [self._fork(str(weights or config.spec.policy.model.path), path, place) for place in places]
        for rank in ranks:
            assert isinstance(rank.receive(START_SECONDS), Ready)
        return ranks

    def _fork(self, policy: str, config: Path, place: RankPlace) -> RankProcess:
        variables = {"TANDEM_CONFIG": str(config), "OMP_NUM_THREADS": "1", **place.environment()}
        ours, theirs = socket.socketpair()
        with theirs:
            process = self._context.Process(target=_become_rank, args=(theirs, policy, variables))
            process.start()
        rank = RankProcess(process, ours)
        self._running.callback(rank.close)
        return rank


def two_places() -> list[RankPlace]:
    """Return the places of two ranks that meet on a free port of an address of their own."""
    address = free_address()
    with closing(socket.create_server((address, 0))) as server:
        port = int(server.getsockname()[1])
    return [RankPlace(number, 2, number, address, port) for number in range(2)]


def _become_rank(end: socket.socket, policy: str, variables: Mapping[str, str]) -> None:
    """Run the trainer program in this fork, as the engine would start it."""
    from tandem_sidecars.megatron.__main__ import main

    os.environ.update(variables)
    os.environ[CHANNEL_VARIABLE] = str(end.detach())
    sys.argv = ["tandem_sidecars.megatron", "--policy", policy]
    main()
