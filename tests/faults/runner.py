"""Hurts one job again and again, and does what an operator would do when it ends: starts it again with --resume."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from random import Random

from tandem_checkpoint.registry.errors import RegistryError
from tests.faults.aim import Aim
from tests.faults.control import Control
from tests.faults.history import Disturbance
from tests.faults.injections.catalogue import Kind
from tests.faults.injections.scene import EtcdKeeper, NoTarget, Scene
from tests.faults.isolation import Isolation
from tests.faults.job import Command, JobPlace, open_controls
from tests.faults.outcome import PROGRESS_SECONDS, Outcome, Recovery, Skipped
from tests.faults.plan import Planned
from tests.faults.recording.processes import ProcessTable, left_behind
from tests.faults.recording.recorder import Recorder
from tests.faults.stages import label
from tests.faults.values import StatusValue

START_SECONDS = 150.0
"""Deadline of the first iteration of a job that nobody has hurt."""
POLL_SECONDS = 0.02
SWEEP_SECONDS = 5.0
"""Time in which the processes of a command that has ended must be gone."""
NUM_TRIES = 3
"""Times that an injection is aimed before it is given up."""
NUM_GIVE_UP = 3
"""Times in a row that a restarted job may miss its deadline."""


class Unrecoverable(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The job does not come back, whatever is done."""


@dataclass(slots=True)
class Recovering:
    """What has happened since an injection."""

    restarts: int = 0
    is_stuck: bool = False
    words: str = ""


class Runner:
    """One job and its recorder."""

    def __init__(self, place: JobPlace, recorder: Recorder, isolation: Isolation, tell: Callable[[str], None]) -> None:
        self._place = place
        self._recorder = recorder
        self._isolation = isolation
        self._tell = tell
        self._controls: Mapping[tuple[str, str], Control] = open_controls(place)
        self._etcd = EtcdKeeper(place)
        self._table = ProcessTable()
        self._command: Command | None = None
        self.num_late_restarts = 0
        """Times that the command ended after the job had seemed well."""
        self.leftovers: list[str] = []
        """Processes that a command has left running."""

    async def start(self) -> None:
        """Start the job and wait until it works. Errors: Unrecoverable."""
        self._launch()
        if await self._progress(time.time(), START_SECONDS) is None:
            raise Unrecoverable(f"the unhurt job did not start: {self._running.last_words()}")

    async def perform(self, planned: Planned, kind: Kind) -> Outcome | Skipped:
        """Inject one fault, undo it, and wait for progress. Errors: Unrecoverable."""
        reason = ""
        for attempt in range(NUM_TRIES):
            if not self._running.running:
                self.num_late_restarts += 1
                self._tell("  it has ended late, of what went before")
                await self._recover(time.time(), Recovering())
            scene = self._scene(Random(planned.seed + attempt))
            try:
                return await self._strike(scene, planned, kind)
            except NoTarget as error:
                reason = str(error)
        return Skipped(planned.index, kind.name, label(planned.stage), reason)

    async def stop(self) -> None:
        """End the job; what it leaves in the buffer is looked at once more."""
        if self._command is not None:
            await self._end_session()

    async def _strike(self, scene: Scene, planned: Planned, kind: Kind) -> Outcome:
        pod = self._place.rollout_pod if kind.is_elastic else self._place.hybrid_pod
        aim, injector = Aim(scene, pod), kind.make()
        await aim.wait(planned.stage, planned.delay_share)
        shot = aim.shot(planned.stage)
        try:
            await injector.inject(scene)
            await self._hold(injector.hold_seconds)
        except (RegistryError, TimeoutError) as error:
            raise NoTarget(f"the registry did not take part: {error}") from error
        finally:
            with suppress(NoTarget):
                await injector.undo(scene)
        ended_at = time.time()
        self._recorder.disturbances.append(Disturbance(kind.name, shot.at, ended_at, kind.seam))
        recovering = Recovering()
        progress_at = await self._recover(ended_at, recovering)
        await self._recorder.snapshot()
        how = Recovery.RESTART if recovering.restarts else Recovery.IN_PLACE
        return Outcome(
            index=planned.index,
            kind=kind.name,
            aimed=label(planned.stage),
            hit=shot.hit,
            began_at=shot.at,
            ended_at=ended_at,
            recovery=Recovery.STUCK if recovering.is_stuck else how,
            num_restarts=recovering.restarts,
            seconds=progress_at - shot.at,
            words=recovering.words,
        )

    async def _hold(self, seconds: float) -> None:
        """Let a fault stay; no longer than the command lives, since then there is nothing left to hurt."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._running.running:  # noqa: ASYNC110 - a process is polled
            await asyncio.sleep(POLL_SECONDS)

    async def _recover(self, since: float, recovering: Recovering) -> float:
        """Wait until the job has made progress and works, restarting it where it ends; return when it progressed.

        Errors: Unrecoverable.
        """
        for _ in range(NUM_GIVE_UP):
            limit = since + PROGRESS_SECONDS
            while time.time() < limit:
                if not self._running.running:
                    recovering.words = await self._restart()
                    recovering.restarts += 1
                    since = time.time()  # what was committed before it ended is no progress after it
                progress_at = await self._progress(since, limit - time.time())
                if progress_at is not None:
                    return progress_at
            recovering.is_stuck = True
            self._tell(f"  no progress within {PROGRESS_SECONDS:.0f} s; the command is ended")
            recovering.words = await self._restart()
            since = time.time()
        raise Unrecoverable(f"no progress after {NUM_GIVE_UP} restarts: {self._running.last_words()}")

    async def _progress(self, since: float, seconds: float) -> float | None:
        """Wait for progress after `since` and return when it was made; None where the time or the command ends."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._running.running:
            served_at = self._served_at(since)
            commits = self._recorder.diary.commits_since(served_at) if served_at is not None else []
            if commits:
                return commits[0].seen_at
            await asyncio.sleep(POLL_SECONDS)
        return None

    def _served_at(self, since: float) -> float | None:
        """Return when the hybrid pod first came to serve after a moment.

        An iteration that commits after that has been through both switches since the fault: what was broken has shown.
        """
        key = f"status/{self._place.hybrid_pod}/rollout"
        newest = takewhile(lambda one: one.at > since, reversed(self._recorder.registry.changes))
        words = [(one.at, one.value) for one in newest if one.key == key]
        served = (at for at, word in words if isinstance(word, StatusValue) and word.state == "Serving")
        return min(served, default=None)

    async def _restart(self) -> str:
        """End what is left of the command and start it again; return its last words."""
        words = self._running.last_words()
        await self._end_session()
        self._tell(f"  ended: {words.splitlines()[-1] if words else 'without a word'}; --resume")
        self._launch("--resume")
        return words

    async def _end_session(self) -> None:
        session = await self._running.stop()
        self._recorder.devices.follow(None)
        self._etcd.stop()
        await self._sweep()
        self._recorder.diary.read()
        self._recorder.sessions.append(session)
        if self._recorder.diary.has_start_since(session.started_at):
            await self._recorder.snapshot()

    async def _sweep(self) -> None:
        """Note what a command has left running, and end it: an operator would have to, before the next start."""
        marker = str(self._place.run.resolve())
        deadline = time.monotonic() + SWEEP_SECONDS
        while (left := left_behind(marker)) and time.monotonic() < deadline:  # noqa: ASYNC110 - polled
            await asyncio.sleep(POLL_SECONDS)
        self.leftovers += [f"process {pid}: {words}" for pid, words in left.items()]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _launch(self, *options: str) -> None:
        for control in self._controls.values():
            control.move_clock(0.0)
        self._recorder.registry.begin_life()
        self._command = Command(self._place, options)
        self._recorder.devices.follow(self._command.pid)

    def _scene(self, random: Random) -> Scene:
        return Scene(
            place=self._place,
            recorder=self._recorder,
            controls=self._controls,
            root=self._running.pid,
            is_running=lambda: self._running.running,
            etcd=self._etcd,
            isolation=self._isolation,
            random=random,
            table=self._table,
        )

    @property
    def _running(self) -> Command:
        assert self._command is not None
        return self._command


@asynccontextmanager
async def running(
    place: JobPlace, recorder: Recorder, isolation: Isolation, tell: Callable[[str], None]
) -> AsyncIterator[Runner]:
    """Have a working job while the context is open. Errors: Unrecoverable."""
    runner = Runner(place, recorder, isolation, tell)
    try:
        await runner.start()
        yield runner
    finally:
        await runner.stop()
