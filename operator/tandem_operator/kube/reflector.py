"""Keeps an index of one kind equal to what the API server holds: a list, then a watch for as long as it lasts."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tandem_operator.kube.client import KubeClient, Selection, WatchEvent
from tandem_operator.kube.errors import ApiError, GoneError, NotFoundError, StaleError
from tandem_operator.kube.index import ChildIndex, JobKey
from tandem_operator.kube.manifest import Manifest, resource_version_of
from tandem_operator.kube.retry import Backoff

logger = logging.getLogger(__name__)

Slim = Callable[[Manifest], Manifest]
OnChange = Callable[[str, str], None]
"""Called with the namespace and the name of a job of which a child changed."""

_WATCH_BACKOFF = Backoff(first_seconds=0.5, longest_seconds=30.0)


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """How long a watch lasts and when it is given up."""

    server_seconds: int = 290
    """The server ends a watch after about this time; it is opened again where it ended."""
    idle_seconds: float = 150.0
    """A watch that is silent for longer is opened again where it was: it may be dead, and nothing tells.

    Where a kind changes a bookmark comes every minute; for a kind that is quiet in the whole cluster none comes.
    """
    silences_before_list: int = 24
    """After so many silent watches in a row, an hour, everything is listed again."""
    absent_seconds: float = 3600.0
    """How often it is tried whether an optional kind has come to be served; whoever needs it asks by itself."""
    backoff: Backoff = _WATCH_BACKOFF
    steady_seconds: float = 5.0
    """A watch that lasted so long, or brought an event, ends a row of failures."""


class Reflector:
    """Lists and watches one selection of objects into an index."""

    def __init__(
        self,
        client: KubeClient,
        selection: Selection,
        *,
        slim: Slim,
        optional: bool,
        on_change: OnChange,
        timing: WatchTiming,
    ) -> None:
        self.index = ChildIndex()
        self.synced = asyncio.Event()
        """Set once the first list is in."""
        self._client = client
        self._selection = selection
        self._slim = slim
        self._optional = optional
        self._on_change = on_change
        self._timing = timing
        self._version = ""
        """Where the next watch goes on; empty where a list must come first."""
        self._num_failures = 0
        self._num_silences = 0
        self._told = ""
        self._is_absent = False
        self._again = asyncio.Event()
        self._heard_at = time.monotonic()

    @property
    def what(self) -> str:
        """Return the name of what is watched, for people."""
        kind = self._selection.kind
        plural = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
        return f"{plural} in {self._selection.namespace or 'all namespaces'}"

    @property
    def is_absent(self) -> bool:
        """Return whether the cluster does not serve this kind."""
        return self._is_absent

    def age_seconds(self) -> float:
        """Return the seconds since the API server was last heard of here; 0 for a kind that it does not serve."""
        return 0.0 if self._is_absent else time.monotonic() - self._heard_at

    def remember(self, manifest: Manifest) -> None:
        """Take the answer to an own write."""
        self.index.remember(self._slim(manifest))

    async def run(self) -> None:
        """List and watch until cancelled; no error of the API server ends it."""
        while True:
            self._num_failures += 1  # until something comes: a watch that ends at once counts as failed
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ApiError as error:
                pause_seconds = self._after(error)
            else:
                pause_seconds = self._pause_seconds()
            await self._pause(pause_seconds)

    def look_again(self) -> None:
        """End a pause: the kind is served now."""
        self._again.set()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not for longer than until somebody says that it is worth another try."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._again.wait()
        self._again.clear()

    async def _list(self) -> None:
        """List everything into the index."""
        listed: list[Manifest] = []
        version = ""
        async with contextlib.aclosing(self._client.pages(self._selection)) as pages:
            async for page in pages:
                listed.extend(self._slim(item) for item in page.items)
                version = page.resource_version
                self._heard()
        self._is_absent = False
        self._tell(self.index.fill(listed, version))
        self._version = version
        self.synced.set()
        logger.debug("%s: listed %d at version %s", self.what, len(listed), version)

    async def _watch(self) -> None:
        """Take events until the server ends the watch."""
        events = self._client.watch(
            self._selection,
            resource_version=self._version,
            timeout_seconds=max(1, round(self._timing.server_seconds * random.uniform(0.8, 1.0))),
            idle_seconds=self._timing.idle_seconds,
            on_open=self._heard,
        )
        opened_at = time.monotonic()
        async with contextlib.aclosing(events):
            async for event in events:
                self._works()
                self._take(event)
        self._heard()
        if time.monotonic() - opened_at >= self._timing.steady_seconds:
            self._works()

    def _take(self, event: WatchEvent) -> None:
        """Take one event into the index."""
        self._heard()
        version = resource_version_of(event.manifest)
        if event.type == "BOOKMARK":
            self.index.advance(version)
        elif event.type == "DELETED":
            self._tell(self.index.delete(self._slim(event.manifest)))
        else:
            self._tell(self.index.change(self._slim(event.manifest)))
        self._version = version or self._version

    def _after(self, error: ApiError) -> float:
        """Decide how to go on after an error; return the seconds to wait before."""
        if isinstance(error, StaleError):
            return self._after_silence()
        if isinstance(error, GoneError):
            self._version = ""
        if isinstance(error, NotFoundError) and self._optional:
            return self._absent()
        if str(error) != self._told:
            logger.warning("%s: %s; tried again until it works", self.what, error)
            self._told = str(error)
        self._num_failures = max(1, self._num_failures)
        return max(self._pause_seconds(), error.retry_after_seconds or 0.0)

    def _pause_seconds(self) -> float:
        """Return the wait before the next watch: none after one that was well."""
        if self._num_failures == 0:
            return 0.0
        return self._timing.backoff.pause_seconds(self._num_failures, random.random())

    def _after_silence(self) -> float:
        """Go on where the watch fell silent, and list again after several silences; return no wait."""
        self._num_silences += 1
        if self._num_silences >= self._timing.silences_before_list:
            logger.info("%s: %d watches brought nothing; listing again", self.what, self._num_silences)
            self._version, self._num_silences = "", 0
        self._num_failures = 0
        return 0.0

    def _absent(self) -> float:
        """Take an optional kind that is not served for an empty one; return when to ask again."""
        if not self._is_absent:
            logger.info("%s: not served by this cluster", self.what)
        self._is_absent = True
        self._tell(self.index.clear())
        self._version = ""
        self.synced.set()
        self._works()
        self._heard()
        return self._timing.absent_seconds

    def _works(self) -> None:
        """Note that the watch is well."""
        if self._told:
            logger.info("%s: works again", self.what)
        self._told, self._num_failures, self._num_silences = "", 0, 0

    def _heard(self) -> None:
        """Note a sign of life of the API server."""
        self._heard_at = time.monotonic()

    def _tell(self, jobs: frozenset[JobKey]) -> None:
        """Report jobs of which a child changed."""
        for namespace, job in jobs:
            self._on_change(namespace, job)
