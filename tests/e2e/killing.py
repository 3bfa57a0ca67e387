"""A job that is killed at random moments, master or everything, and started again until it has run to its end."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from tests.e2e.jobs import folders_of, iterations, leftovers, start

START_SECONDS = 240.0
GONE_SECONDS = 15.0
POLL_SECONDS = 0.02
COMMIT_SHARE = 0.7
"""Of the kills, those that wait for a commit."""
MOST_OF_ONE_LIFE = 8
"""Times that a container of one life of the command is killed: it is started again ten times at most."""
COMMAND, MASTER, TRAINER, SERVER = "the command", "the master", "the trainer's engine", "the server's engine"
WORDS = {MASTER: ("tandem-master",), TRAINER: ("tandem-engine", "train"), SERVER: ("tandem-engine", "rollout")}
"""Of a container's command line."""


@dataclass(frozen=True)
class Kill:
    """One SIGKILL."""

    what: str
    after_seconds: float
    """Since what is killed has begun, the command with its master; or since the commit."""
    after_commit: bool
    """Only once an iteration was committed since the last kill: all the others hit a job that begins."""


def planned_kills(seed: int, num_kills: int, shares: dict[str, float], most_seconds: float) -> list[Kill]:
    """Return kills at random: each of the kinds by its share, each moment evenly in up to `most_seconds`; most of them
    where the job has made progress.
    """
    random = Random(seed)
    whats = random.choices([*shares], [*shares.values()], k=num_kills)
    return [Kill(what, random.uniform(0.0, most_seconds), random.random() < COMMIT_SHARE) for what in whats]


@dataclass
class KilledJob:
    """A command that is killed by plan, whole or in part."""

    job: Path
    run: Path
    tell: Callable[[str], None] = print
    num_done: int = 0
    """Kills that have hit."""
    _of_this_life: dict[str, int] = field(default_factory=dict)

    def run_to_end(self, kills: Sequence[Kill]) -> str:
        """Start the job, kill by plan, and return what the last command has said. One that has ended is not killed."""
        process = self._begin()
        try:
            for kill in kills:
                self._victim(process, MASTER if kill.what == COMMAND else kill.what)
                if kill.after_commit:
                    self._wait_for_commit(process)
                self._wait(process, kill.after_seconds)
                if process.poll() is not None:
                    break
                process = self._kill(process, kill)
            output, _ = process.communicate(timeout=START_SECONDS)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 0, output
        return output

    def _wait_for_commit(self, process: "subprocess.Popen[str]") -> None:
        known, deadline = len(iterations(self.run)), time.monotonic() + START_SECONDS
        while len(iterations(self.run)) == known and process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _wait(self, process: "subprocess.Popen[str]", seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(POLL_SECONDS)

    def _begin(self, *options: str) -> "subprocess.Popen[str]":
        self._of_this_life = {}
        return start(self.job, self.run, *options)

    def _kill(self, process: "subprocess.Popen[str]", kill: Kill) -> "subprocess.Popen[str]":
        """Kill, and return the command that runs then."""
        self.num_done += 1
        num_before = self._of_this_life.get(kill.what, 0)
        victim = self._victim(process, kill.what) if num_before < MOST_OF_ONE_LIFE else None
        if victim is not None:
            os.kill(victim, signal.SIGKILL)
            self._of_this_life[kill.what] = num_before + 1
            self._told(kill.what, kill)
            return process
        process.kill()
        process.communicate()
        self._wait_until_gone()
        self._told("everything", kill)
        return self._begin("--resume")

    def _told(self, what: str, kill: Kill) -> None:
        newest = max((record.iteration for record in iterations(self.run)), default=0)
        self.tell(f"kill {self.num_done}: {what}, after {kill.after_seconds:.2f} s; iteration {newest} was committed")

    def _victim(self, process: "subprocess.Popen[str]", what: str) -> int | None:
        """Wait until a container runs; return its main process, None for the command."""
        deadline = time.monotonic() + START_SECONDS
        while what != COMMAND and process.poll() is None and time.monotonic() < deadline:
            found = container_of(process.pid, WORDS[what])
            if found is not None:
                return found
            time.sleep(POLL_SECONDS)
        return None

    def _wait_until_gone(self) -> None:
        deadline = time.monotonic() + GONE_SECONDS
        while leftovers(self.run) or folders_of(self.run):
            assert time.monotonic() < deadline, (leftovers(self.run), folders_of(self.run))
            time.sleep(0.1)


def container_of(command: int, words: Sequence[str]) -> int | None:
    """Return the main process of the container with these words on its command line, None where none runs."""
    try:
        children = psutil.Process(command).children(recursive=True)
    except psutil.Error:
        return None
    for process in children:
        try:
            told = process.cmdline()
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
        except psutil.Error:
            continue
        if all(any(part.endswith(word) for part in told) for word in words):
            return int(process.pid)
    return None
