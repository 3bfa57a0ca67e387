"""Trainer programs by fork: Megatron is imported once, each rank is a process that speaks the real protocol."""

import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self, TypeVar

from tandem_api.engine import JobConfig
from tandem_checkpoint.process.channel import CHANNEL_VARIABLE
from tandem_checkpoint.process.commands import (
    RANK_ANSWER,
    Build,
    FolderSource,
    RankAnswer,
    RankCommand,
    RankPlace,
    Ready,
    WeightSource,
)
from tests.tandem_checkpoint.etcd_process import free_address

START_SECONDS = 120.0
ANSWER_SECONDS = 60.0
ALONE = RankPlace(rank=0, world_size=1, local_rank=0, rendezvous_address="127.0.0.1", rendezvous_port=0)
"""The place of a job's only rank."""
IMPORTS = ("tandem_sidecars.megatron.rank",)
Answer = TypeVar("Answer")


class RankProcess:
    """One running trainer program."""

    def __init__(self, process: multiprocessing.context.ForkServerProcess, end: socket.socket) -> None:
        self._process = process
        self._end = end
        self._lines = end.makefile("rb")

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

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


def ask_all(ranks: Sequence[RankProcess], command: Callable[[int], RankCommand], wanted: type[Answer]) -> list[Answer]:
    """Send each rank its command, by its number; return their answers, which must be of the wanted kind."""
    for index, rank in enumerate(ranks):
        rank.send(command(index))
    answers = [rank.receive() for rank in ranks]
    assert all(isinstance(answer, wanted) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, wanted)]


class Forge:
    """Starts ranks. Closing it ends them; the process that has Megatron imported stays for the next one."""

    def __init__(self, imports: Sequence[str] = IMPORTS) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(imports))
        self._running = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def start(
        self, config: JobConfig, folder: Path, weights: Path | None = None, plant: Callable[[], None] | None = None
    ) -> RankProcess:
        """Start the only rank of a job and return it once it is ready.

        Args: folder: scratch. plant: puts a mistake into it.
        """
        if plant is None:
            return self.start_all(config, folder, [ALONE], weights)[0]
        rank = self.start_bare(config, folder, plant)
        rank.ask(Build(place=ALONE, source=FolderSource(path=config.spec.policy.model.path)), Ready)
        return rank

    def start_all(
        self, config: JobConfig, folder: Path, places: Sequence[RankPlace], weights: Path | None = None
    ) -> list[RankProcess]:
        """Start all ranks of a job from `weights`, else its initial policy. Return them once they are ready."""
        ranks = [self.start_bare(config, folder) for _ in places]
        source = FolderSource(path=str(weights or config.spec.policy.model.path))
        for rank, place in zip(ranks, places, strict=True):
            rank.send(Build(place=place, source=source))
        for rank in ranks:
            assert isinstance(rank.receive(START_SECONDS), Ready)
        return ranks

    def start_from(self, config: JobConfig, folder: Path, source: WeightSource) -> RankProcess:
        """Start the only rank of a job with the weights of any source."""
        rank = self.start_bare(config, folder)
        rank.ask(Build(place=ALONE, source=source), Ready)
        return rank

    def start_bare(self, config: JobConfig, folder: Path, plant: Callable[[], None] | None = None) -> RankProcess:
        """Start a rank that has no model yet."""
        path = folder / "job.json"
        aside = folder / "job.json.new"  # another rank of the job may be reading
        aside.write_text(config.model_dump_json())
        aside.replace(path)
        variables = {"TANDEM_CONFIG": str(path), "OMP_NUM_THREADS": "1"}
        ours, theirs = socket.socketpair()
        with theirs:
            process = self._context.Process(target=_become_rank, args=(theirs, variables, plant))
            process.start()
        rank = RankProcess(process, ours)
        self._running.callback(rank.close)
        return rank


def two_places(num_ranks: int = 2) -> list[RankPlace]:
    """Return the places of two ranks, or more, that meet on a free port of an address of their own."""
    address = free_address()
    with closing(socket.create_server((address, 0))) as server:
        port = int(server.getsockname()[1])
    return [
        RankPlace(
            rank=number, world_size=num_ranks, local_rank=number, rendezvous_address=address, rendezvous_port=port
        )
        for number in range(num_ranks)
    ]


def _become_rank(end: socket.socket, variables: Mapping[str, str], plant: Callable[[], None] | None) -> None:
    """Run the trainer program in this fork, as the engine would start it."""
    if plant is not None:
        plant()
    from tandem_sidecars.megatron.__main__ import main

    os.environ.update(variables)
    os.environ[CHANNEL_VARIABLE] = str(end.detach())
    main()
