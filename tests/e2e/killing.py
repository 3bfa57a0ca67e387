"""A job that is killed by plan, in part or whole, and started again until it has run to its end."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tandem_api.history import IterationRecord, Record
from tests.e2e.jobs import folders_of, leftovers, start
from tests.e2e.moments import Doing, Hit, Kill, committed, doing_of, usual_seconds
from tests.faults.history import BufferSnapshot, DiaryEntry
from tests.faults.recording.buffer import BufferReader
from tests.faults.recording.diary import DiaryRecorder

START_SECONDS = 240.0
"""Until a job that was started, or hurt, commits or ends."""
RUN_SECONDS = 900.0
"""Until a job ends that is not killed any more."""
GONE_SECONDS = 15.0
POLL_SECONDS = 0.005
LOOK_SECONDS = 0.05
"""How often the machine's processes are gone through for a container."""
MOST_OF_ONE_LIFE = 8
"""Times that a container of one life of the command is killed: it is started again ten times at most."""
EVERYTHING, MASTER, TRAINER, SERVER = "everything", "the master", "the trainer's engine", "the server's engine"
WORDS = {MASTER: ("tandem-master",), TRAINER: ("tandem-engine", "train"), SERVER: ("tandem-engine", "rollout")}
"""Of a container's command line."""
JANITOR = "tandem_cli.local.janitor"
"""What sweeps the machine once the command is gone. It is the only one that is not killed with everything."""

Command = subprocess.Popen[str]


@dataclass
class KilledJob:
    """A command that is killed by plan, and what was seen of its job."""

    job: Path
    run: Path
    tell: Callable[[str], None] = print
    hits: list[Hit] = field(default_factory=list)
    snapshots: list[BufferSnapshot] = field(default_factory=list)
    """The buffer before each kill of a job that had got over the last one, and at the end."""
    _num_read: int = 0
    """Lines of the diary at the last kill."""
    _of_this_life: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._diary = DiaryRecorder(self.run / "metrics.jsonl")
        self._buffer = BufferReader(self.run / "buffer.sqlite")

    @property
    def diary(self) -> Sequence[DiaryEntry]:
        return self._diary.entries

    @property
    def records(self) -> list[Record]:
        return [entry.record for entry in self.diary]

    def run_to_end(self, kills: Sequence[Kill]) -> None:
        """Start the job and kill by plan. A command that has ended is not killed."""
        process = self._begin()
        try:
            for kill in kills:
                victim = self._await_moment(process, kill)
                if process.poll() is not None:
                    break
                process = self._kill(process, kill.what, victim)
            output, _ = process.communicate(timeout=RUN_SECONDS)
        finally:
            process.kill()
            process.communicate()
        self._look()
        assert process.returncode == 0, output

    def _begin(self, *options: str) -> Command:
        self._of_this_life = {}
        return start(self.job, self.run, *options)

    def _look(self) -> None:
        self._diary.read()
        snapshot = self._buffer.snapshot()
        self.snapshots += [snapshot] if snapshot is not None else []

    def _await_moment(self, process: Command, kill: Kill) -> int | None:
        """Wait for the moment of a kill; return the process that is to be killed, None for everything."""
        comes_back, wanted = kill.doing is Doing.COMING_BACK, f"{kill.doing} after iteration {kill.iteration}"
        if not comes_back:
            self._wait(process, lambda: self._has_committed(kill.iteration), wanted)
            self._look()
        victim = self._victim(process, kill.what)
        if not comes_back:
            self._wait(process, lambda: doing_of(self.records[self._num_read :]) is kill.doing, wanted)
        due = time.monotonic() + kill.share * usual_seconds(self.records)[kill.doing]
        self._wait(process, lambda: time.monotonic() > due or (comes_back and self._has_committed(0)), "the moment")
        return victim

    def _has_committed(self, iteration: int) -> bool:
        """Tell whether the job has come so far, and further than at the last kill."""
        new = self.records[self._num_read :]
        return any(isinstance(record, IterationRecord) for record in new) and committed(self.records) >= iteration

    def _wait(self, process: Command, condition: Callable[[], bool], wanted: str) -> None:
        """Read the diary until a condition holds or the command has ended. Errors: AssertionError at the deadline."""
        deadline = time.monotonic() + START_SECONDS
        self._diary.read()
        while not condition() and process.poll() is None:
            assert time.monotonic() < deadline, f"{wanted}: not within {START_SECONDS:.0f} s; see {self.run}/logs"
            time.sleep(POLL_SECONDS)
            self._diary.read()

    def _kill(self, process: Command, what: str, victim: int | None) -> Command:
        """Kill, note what was hit, and return the command that runs then."""
        num_before = self._of_this_life.get(what, 0)
        if victim is not None and num_before < MOST_OF_ONE_LIFE:
            os.kill(victim, signal.SIGKILL)
            self._of_this_life[what] = num_before + 1
            self._note(what)
            return process
        kill_everything(process)
        self._wait_until_gone()
        self._note(EVERYTHING)
        return self._begin("--resume")

    def _note(self, what: str) -> None:
        self._diary.read()
        doing = doing_of(self.records[self._num_read :])
        self.hits.append(Hit(what, committed(self.records), doing))
        self._num_read = len(self.records)
        self.tell(f"kill {len(self.hits)}: {what}, {doing}; iteration {self.hits[-1].iteration} was committed")

    def _victim(self, process: Command, what: str) -> int | None:
        """Wait until a container runs; return its main process, None for everything, for which it is the master."""
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            found = container_of(process.pid, WORDS[MASTER if what == EVERYTHING else what])
            if found is not None:
                return None if what == EVERYTHING else found
            time.sleep(LOOK_SECONDS)
        return None

    def _wait_until_gone(self) -> None:
        deadline = time.monotonic() + GONE_SECONDS
        while leftovers(self.run) or folders_of(self.run):
            assert time.monotonic() < deadline, (leftovers(self.run), folders_of(self.run))
            time.sleep(0.1)


def kill_everything(process: Command) -> None:
    """Kill the command and whatever it has started but its janitor, which would ask the master to stop, and to save."""
    command = psutil.Process(process.pid)
    command.suspend()
    for child in command.children(recursive=True):
        with suppress(psutil.Error):
            if JANITOR not in child.cmdline():
                child.kill()
    process.kill()
    process.communicate()


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
