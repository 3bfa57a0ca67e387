"""How the jobs are doing, as their masters write it to etcd: one watch over all jobs, and a copy to read from."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from pydantic import ValidationError

from tandem_api.registry import Keys, Progress
from tandem_checkpoint.registry.errors import RegistryError
from tandem_checkpoint.registry.etcd import connect as connect_etcd
from tandem_checkpoint.registry.store import Change, Registry

logger = logging.getLogger(__name__)

PREFIX = "/tandem/v1/"
"""What all keys of all jobs begin with (tandem_api.registry.Keys)."""
LEAF = "progress"
PROBE_KEY = "/tandem/v1"
"""Read to learn whether etcd answers; nothing is ever written there."""
PROBE_EVERY_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
FORGET_SECONDS = 10.0

JobKey = tuple[str, str]
"""Namespace and name."""
Connect = Callable[[Sequence[str]], AbstractAsyncContextManager[Registry]]
OnChange = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class SeenProgress:
    """The newest word of one job's master."""

    progress: Progress
    age_seconds: float
    """0 while etcd still holds it; else the time since it was last known to."""


@dataclass(slots=True)
class Entry:
    """One job's value; `gone_at` is the time at which its key went, None while it is there."""

    progress: Progress
    gone_at: float | None = None


class ProgressMirror:
    """The newest `progress` of each job. Reads are free; what etcd does not hold any more stays, and grows old."""

    def __init__(
        self,
        endpoints: Sequence[str],
        on_change: OnChange,
        *,
        connect: Connect = connect_etcd,
        clock: Callable[[], float] = time.monotonic,
        probe_every_seconds: float = PROBE_EVERY_SECONDS,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._on_change = on_change
        self._connect = connect
        self._clock = clock
        self._probe_every_seconds = probe_every_seconds
        self._entries: dict[JobKey, Entry] = {}
        self._registry: Registry | None = None
        self._away_since: float | None = clock()
        self._told = False
        self._pause_seconds = FIRST_PAUSE_SECONDS

    def get(self, namespace: str, name: str) -> SeenProgress | None:
        """Return what the job's master wrote last; None where it wrote nothing yet."""
        entry = self._entries.get((namespace, name))
        if entry is None:
            return None
        since = min((at for at in (entry.gone_at, self._away_since) if at is not None), default=None)
        return SeenProgress(entry.progress, 0.0 if since is None else self._clock() - since)

    def unreachable_seconds(self) -> float:
        """Return how long etcd has not answered; 0 while it does."""
        return 0.0 if self._away_since is None else self._clock() - self._away_since

    async def run(self) -> None:
        """Follow etcd until cancelled. Never raises for anything that etcd does, or does not do."""
        while True:
            try:
                await self._connected()
            except* (RegistryError, OSError, TimeoutError) as errors:
                self._lost(errors)
            await asyncio.sleep(self._pause_seconds * random.uniform(0.5, 1.0))
            self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)

    async def forget(self, namespace: str, name: str) -> bool:
        """Drop a deleted job and delete its keys; return whether etcd confirmed it within the deadline.

        Not once a new job has taken the name: the keys of both are the same.
        """
        self._entries.pop((namespace, name), None)
        if self._registry is None:
            return False
        try:
            async with asyncio.timeout(FORGET_SECONDS):
                await self._registry.delete(Keys(namespace, name).prefix)
        except (RegistryError, TimeoutError) as error:
            logger.warning("the keys of the deleted job %s/%s stay in etcd: %s", namespace, name, error)
            return False
        finally:
            self._entries.pop((namespace, name), None)
        return True

    async def _connected(self) -> None:
        """Connect once and follow until etcd stops answering; then raise."""
        async with self._connect(self._endpoints) as registry:
            await registry.get(PROBE_KEY)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow(registry), name="progress of all jobs")
                    tasks.create_task(self._probe(registry), name="probe of etcd")
            finally:
                self._registry = None

    async def _probe(self, registry: Registry) -> None:
        """Ask etcd for a sign of life, forever; raise at the first that is missing.

        The watch alone would tell nothing: between two words of the masters it is silent.
        """
        while True:
            await asyncio.sleep(self._probe_every_seconds)
            await registry.get(PROBE_KEY)

    async def _follow(self, registry: Registry) -> None:
        watch = registry.watch(PREFIX)
        self._fill(await anext(watch))
        self._found(registry)
        async for changes in watch:
            self._take(changes)

    def _found(self, registry: Registry) -> None:
        if self._away_since is not None:
            logger.info("etcd answers: the progress of %d jobs is up to date", len(self._entries))
        self._registry = registry
        self._away_since = None
        self._told = False
        self._pause_seconds = FIRST_PAUSE_SECONDS

    def _lost(self, errors: BaseExceptionGroup[BaseException]) -> None:
        if self._away_since is None:
            self._away_since = self._clock()
        if not self._told:
            self._told = True
            logger.warning("etcd is away, the progress of jobs stands still: %s", "; ".join(map(str, _leaves(errors))))

    def _fill(self, changes: Sequence[Change]) -> None:
        """Take in everything that is there; what is not among it has gone while nobody looked."""
        there = {job for change in changes if change.value is not None and (job := _job_of(change.key)) is not None}
        for job in self._entries.keys() - there:
            self._mark_gone(job)
        self._take(changes)

    def _take(self, changes: Sequence[Change]) -> None:
        for change in changes:
            job = _job_of(change.key)
            if job is None:
                continue
            if change.value is None:
                self._mark_gone(job)
            else:
                self._put(job, change.value)

    def _put(self, job: JobKey, text: str) -> None:
        try:
            progress = Progress.model_validate_json(text, extra="ignore")  # a newer master may say more
        except ValidationError as error:
            logger.warning("the progress of %s/%s is not readable: %s", *job, error.errors()[0]["msg"])
            return
        entry = self._entries.get(job)
        if entry is not None and entry.progress == progress and entry.gone_at is None:
            return
        self._entries[job] = Entry(progress)
        self._on_change(*job)

    def _mark_gone(self, job: JobKey) -> None:
        entry = self._entries.get(job)
        if entry is not None and entry.gone_at is None:
            entry.gone_at = self._clock()
            self._on_change(*job)


def _job_of(key: str) -> JobKey | None:
    """Return the job whose `progress` this key is; None for any other key."""
    parts = key.removeprefix(PREFIX).split("/")
    if key.startswith(PREFIX) and len(parts) == 3 and parts[2] == LEAF:
        return parts[0], parts[1]
    return None


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the errors themselves, out of however many task groups they went through."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
