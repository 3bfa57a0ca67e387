"""kopf as a frame: it watches RLJobs and hands each event on. It decides nothing and writes nothing.

kopf keeps state of its own in annotations, finalizers and events where it is let; all of that is off here. Three things
that it does to its host are undone: it takes over SIGTERM and SIGINT; `kopf.operator` cancels every task younger than
itself, so its tasks are held and ended here; and it ends at the first error that it does not know, so it begins again.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import kopf

from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.credentials import Connection
from tandem_operator.kube.errors import ApiError
from tandem_operator.kube.manifest import Manifest, name_of, namespace_of, section, uid_of
from tandem_operator.kube.resources import RLJOB
from tandem_operator.program.kopf_session import JobKey, Listing, Wiretap, open_session

logger = logging.getLogger(__name__)

SERVER_SECONDS = 290
"""A watch is opened again after this long, by the server's hand."""
CLIENT_SECONDS = 300
"""The same by the client's hand, where the server does not."""
SILENCE_SECONDS = 150.0
"""A watch without even a bookmark for so long is opened again; bookmarks come about once a minute."""
CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 30.0
RETRY_PAUSES_SECONDS = (1.0, 2.0, 5.0)
PAGE_SIZE = 500
END_SECONDS = 10.0
"""Time that kopf's tasks get to end."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 120.0
"""A run of this length makes the next pause short again."""
KIND_POLL_SECONDS = 10.0

Sink = Callable[[str, str, Manifest | None], None]
"""(namespace, name, the newest RLJob); None once it is gone. Must not raise."""


class JobLedger:
    """Turns kopf's events into the newest state of each name.

    kopf keeps the order of events of one uid only: the end of a deleted job may come after the beginning of the next
    of the same name. And a job that goes while a watch is broken leaves no event at all: only the next list tells.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._uids: dict[JobKey, str] = {}

    def take(self, deleted: bool, manifest: Manifest) -> None:
        """Take in one event."""
        key = (namespace_of(manifest), name_of(manifest))
        if not deleted:
            self._uids[key] = uid_of(manifest)
            self._sink(*key, manifest)
        elif self._uids.get(key) == uid_of(manifest):
            self._gone(key)

    def compare(self, listing: Listing) -> None:
        """Take in a list: what is known and not in it has gone."""
        scope = [key for key in self._uids if listing.namespace in (None, key[0])]
        for key in scope:
            if key not in listing.uids:
                self._gone(key)

    def _gone(self, key: JobKey) -> None:
        del self._uids[key]
        self._sink(*key, None)


class Frame:
    """kopf, from the first list until `stop` is set."""

    def __init__(
        self,
        connection: Connection,
        client: KubeClient,
        sink: Sink,
        *,
        namespaces: Sequence[str] = (),
        own_signals: Callable[[], None] = lambda: None,
        count_error: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._connection = connection
        self._client = client
        self._namespaces = tuple(namespaces)
        self._own_signals = own_signals
        self._count_error = count_error
        self._ledger = JobLedger(sink)
        self._tap = Wiretap(self._namespaces, self._listed)
        self.synced = asyncio.Event()
        """Set once every RLJob has been listed."""

    def age_seconds(self) -> float:
        """Return the time since the watch of RLJobs last said anything, bookmarks included."""
        return self._tap.age_seconds()

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set, whatever the API server does meanwhile."""
        pause_seconds = FIRST_PAUSE_SECONDS
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            await self._wait_for_kind(stop)
            begun = loop.time()
            error = None if stop.is_set() else await self._watch(stop)
            if stop.is_set():
                return
            self._count_error("frame")
            pause_seconds = FIRST_PAUSE_SECONDS if loop.time() - begun > STEADY_SECONDS else pause_seconds
            logger.warning("the watch of RLJobs ended (%s); beginning again in %.0f s", _words(error), pause_seconds)
            await _sleep(pause_seconds * random.uniform(0.5, 1.0), stop)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _wait_for_kind(self, stop: asyncio.Event) -> None:
        """Wait until the cluster knows RLJobs: kopf would look once, warn and watch nothing for ever."""
        told = False
        while not stop.is_set():
            try:
                if await self._client.serves(RLJOB):
                    return
                problem = "RLJob is not installed; run kubectl apply --server-side -f crds/rljobs.tandem.dev.yaml"
            except ApiError as error:
                problem = str(error)
            if not told:
                logger.warning("%s", problem)
                told = True
            await _sleep(KIND_POLL_SECONDS, stop)

    async def _watch(self, stop: asyncio.Event) -> BaseException | None:
        """Run kopf until it ends or shall end; return what it died of, None where it just ended."""
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=build_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
        )
        self._own_signals()  # before anything else may run: no signal is lost
        stopping = asyncio.create_task(stop.wait(), name="stop of kopf")
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await _end(tasks)
        return _first_error(tasks)

    def _registry(self) -> kopf.OperatorRegistry:
        """Return kopf's handlers: a way in, and one for every event of an RLJob."""
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            return await open_session(self._connection, self._tap)

        @kopf.on.event(RLJOB.group, RLJOB.version, RLJOB.plural, registry=registry)
        async def unwrap(event: kopf.RawEvent, **_: Any) -> None:
            self._ledger.take(event["type"] == "DELETED", without_managers(cast("Manifest", event["object"])))

        return registry

    def _listed(self, listing: Listing) -> None:
        self._ledger.compare(listing)
        if self._tap.complete:
            self.synced.set()


class NoDiffBase(kopf.DiffBaseStorage):
    """Remembers nothing: there are no handlers of changes, so nothing is ever compared."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Write nothing."""


class NoProgress(kopf.ProgressStorage):
    """Remembers nothing: a handler of events is never tried again."""

    def fetch(self, *, key: str, body: kopf.Body) -> None:
        return None

    def store(self, *, key: str, record: object, body: kopf.Body, patch: kopf.Patch) -> None:
        """Write nothing."""

    def purge(self, *, key: str, body: kopf.Body, patch: kopf.Patch) -> None:
        """Write nothing."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Write nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def build_settings() -> kopf.OperatorSettings:
    """Return settings under which kopf only reads: lists in pages, and watches with every deadline set."""
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None  # else kopf would SIGKILL this process ten minutes after its end
    settings.posting.enabled = False
    settings.scanning.disabled = True  # no watch of all CRDs and namespaces, and no right to it
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = CLIENT_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    settings.watching.chunk_size = PAGE_SIZE
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.networking.error_backoffs = RETRY_PAUSES_SECONDS
    settings.queueing.idle_timeout = 1.0
    return settings


def without_managers(manifest: Manifest) -> Manifest:
    """Return an object without metadata.managedFields: as long as all the rest, kept for each job, read by nobody."""
    metadata = section(manifest, "metadata")
    return {**manifest, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel kopf's tasks once and wait: it closes its watches and its session itself."""
    for task in tasks:
        task.cancel()
    _, left = await asyncio.wait(tasks, timeout=END_SECONDS)
    if left:
        logger.warning("kopf did not end: %s", ", ".join(sorted(task.get_name() for task in left)))


def _first_error(tasks: Collection[asyncio.Task[Any]]) -> BaseException | None:
    ended = [task for task in tasks if task.done() and not task.cancelled()]
    return next((error for task in ended if (error := task.exception()) is not None), None)


def _words(error: BaseException | None) -> str:
    return "for no reason that it gave" if error is None else f"{type(error).__name__}: {error}"


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    """Wait for `seconds`, or until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
