"""What the leading replica runs: caches, the mirror of progress, events, kopf's frame and the funnels."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from tandem_checkpoint.registry.etcd import connect
from tandem_checkpoint.registry.store import Registry
from tandem_operator.kube.cache import ChildCache, WatchedKind
from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.credentials import Connection
from tandem_operator.kube.lease import LeaderLease
from tandem_operator.kube.manifest import Manifest
from tandem_operator.kube.recorder import EventRecorder
from tandem_operator.program.errors import LeaseLostError
from tandem_operator.program.frame import Frame
from tandem_operator.program.metrics import Metrics
from tandem_operator.program.settings import Settings
from tandem_operator.program.sweeper import Sweeper
from tandem_operator.progress import Connect, ProgressMirror

logger = logging.getLogger(__name__)

GRACE_SECONDS = 15.0
"""Time that passes under way get to end after SIGTERM; a pod has 30 s in all."""


class FunnelRunner(Protocol):
    """One funnel a job: see tandem_operator.reconcile.funnel."""

    def sink(self, namespace: str, name: str, manifest: Manifest | None, /) -> None:
        """Take the newest RLJob; None once it is gone."""
        ...

    def wake(self, namespace: str, name: str, /) -> None:
        """Look at a job again: a child of it, or its progress, has changed."""
        ...

    async def run(self, stop: asyncio.Event, /) -> None:
        """Work until `stop` is set and the passes under way have ended."""
        ...

    def heartbeat_age_seconds(self) -> float:
        """Return the time since the funnels last got anywhere."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What funnels are made of."""

    settings: Settings
    client: KubeClient
    cache: ChildCache
    recorder: EventRecorder
    progress: ProgressMirror
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Assembly:
    """What the frame of the program does not know: the kinds of children, and what is done about them."""

    watched: Sequence[WatchedKind]
    build_funnels: Callable[[Parts], FunnelRunner]


class Leader:
    """Everything that only one replica may run at a time."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        client: KubeClient,
        metrics: Metrics,
        assembly: Assembly,
        own_signals: Callable[[], None],
    ) -> None:
        self._cache = ChildCache(client, assembly.watched, namespaces=settings.namespaces, on_change=self._wake)
        self._progress = ProgressMirror(settings.etcd, self._wake, connect=_connection_to(settings))
        self._recorder = EventRecorder(client, instance=settings.lease.identity)
        parts = Parts(settings, client, self._cache, self._recorder, self._progress, metrics)
        self._funnels = assembly.build_funnels(parts)
        self._sweeper = Sweeper(self._cache, self._progress)
        self._frame = Frame(
            connection,
            client,
            self._sink,
            namespaces=settings.namespaces,
            own_signals=own_signals,
            count_error=metrics.count_error,
        )
        self._metrics = metrics
        self._working = False

    @property
    def synced(self) -> bool:
        """Return whether every job and every child has been listed."""
        return self._cache.synced.is_set() and self._frame.synced.is_set()

    def progress_age_seconds(self) -> float:
        """Return the time since the funnels got anywhere; 0 before they begin and after they end."""
        return self._funnels.heartbeat_age_seconds() if self._working else 0.0

    def watch_age_seconds(self) -> float:
        """Return the silence of the quietest watch, and show all of them."""
        ages = {"RLJob": self._frame.age_seconds(), "children": self._cache.age_seconds()}
        for kind, seconds in ages.items():
            self._metrics.show_watch_age(kind, seconds)
        self._metrics.show_registry_age(self._progress.unreachable_seconds())
        return max(ages.values())

    async def run(self, lease: LeaderLease, stop: asyncio.Event) -> None:
        """Lead until `stop` is set; LeaseLostError, at once, where the lease is lost."""
        try:
            await self._run(lease, stop)
        finally:
            await self._sweeper.close()

    async def _run(self, lease: LeaderLease, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            helping = [
                tasks.create_task(_guard(lease), name="guard of the lease"),
                tasks.create_task(self._cache.run(), name="cache of children"),
                tasks.create_task(self._progress.run(), name="mirror of progress"),
                tasks.create_task(self._recorder.run(), name="events"),
            ]
            working = [
                tasks.create_task(self._frame.run(stop), name="watch of RLJobs"),
                tasks.create_task(self._work(stop), name="funnels"),
            ]
            await stop.wait()
            _, late = await asyncio.wait(working, timeout=GRACE_SECONDS)
            for task in (*late, *helping):
                task.cancel()
        for task in late:
            logger.warning("%s did not end within %g s and was cut off", task.get_name(), GRACE_SECONDS)

    async def _work(self, stop: asyncio.Event) -> None:
        """Run the funnels once everything has been listed: half a picture would look like lost pods."""
        listed = asyncio.create_task(self._listed(), name="first lists")
        stopping = asyncio.create_task(stop.wait(), name="stop of the funnels")
        try:
            await asyncio.wait([listed, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            listed.cancel()
            stopping.cancel()
        if stop.is_set():
            return
        logger.info("jobs and their children are listed; the funnels begin")
        self._working = True
        try:
            await self._funnels.run(stop)
        finally:
            self._working = False

    async def _listed(self) -> None:
        await self._cache.synced.wait()
        await self._frame.synced.wait()

    def _sink(self, namespace: str, name: str, manifest: Manifest | None) -> None:
        self._funnels.sink(namespace, name, manifest)
        (self._sweeper.sweep if manifest is None else self._sweeper.spare)(namespace, name)

    def _wake(self, namespace: str, name: str) -> None:
        self._funnels.wake(namespace, name)


async def _guard(lease: LeaderLease) -> None:
    """Raise as soon as the lease is lost: whatever is under way must not write any more."""
    await lease.lost.wait()
    raise LeaseLostError(f"lease: lost to {lease.holder or 'nobody'}; this replica ends and begins again as a standby")


def _connection_to(settings: Settings) -> Connect:
    """Return what connects to the jobs' etcd as who we are; the mirror tries again itself, and tells for how long."""

    def connect_as_ourselves(endpoints: Sequence[str]) -> AbstractAsyncContextManager[Registry]:
        return connect(endpoints, settings.etcd_credentials, patience_seconds=0)

    return connect_as_ourselves
