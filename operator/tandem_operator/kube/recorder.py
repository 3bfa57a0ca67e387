"""Kubernetes Events about the operator's decisions: written in the background, repeats counted in one Event."""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.errors import ApiError, NotFoundError
from tandem_operator.kube.manifest import Manifest
from tandem_operator.kube.resources import EVENT, ResourceKind

logger = logging.getLogger(__name__)

Severity = Literal["Normal", "Warning"]

MAX_MESSAGE_BYTES = 1024
SERIES_SECONDS = 600.0
"""A repeat within this time raises the count of the Event that is there."""
REPEAT_SECONDS = 20.0
"""Repeats that come faster are counted and written with a later one."""
MAX_SERIES = 4096
MAX_QUEUED = 1024
LAST_WORDS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """The object that an Event is about."""

    kind: ResourceKind
    namespace: str
    name: str
    uid: str
    resource_version: str = ""

    def manifest(self) -> Manifest:
        """Return it as `involvedObject`."""
        reference: Manifest = {
            "apiVersion": self.kind.api_version,
            "kind": self.kind.kind,
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
        }
        return {**reference, "resourceVersion": self.resource_version} if self.resource_version else reference


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing to tell."""

    about: ObjectReference
    severity: Severity
    reason: str
    message: str
    action: str
    at: datetime

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return what makes another one a repeat."""
        return (self.about.uid, self.about.name, self.reason, self.message)


@dataclass(slots=True)
class Series:
    """An Event that was written, and how often the same happened since."""

    name: str
    count: int
    seen_at: float
    """When it last happened, on the monotonic clock."""
    written_at: float


class EventRecorder:
    """Tells people what the operator did and why. Never blocks and never raises."""

    def __init__(
        self,
        client: KubeClient,
        *,
        instance: str,
        component: str = "tandem-operator",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._instance = instance
        self._component = component
        self._clock = clock
        self._queue: asyncio.Queue[Happening] = asyncio.Queue(MAX_QUEUED)
        self._series: OrderedDict[tuple[str, str, str, str], Series] = OrderedDict()
        self.num_dropped = 0
        """Events that were not written, because too many waited or the API server refused them."""

    def record(
        self, about: ObjectReference, severity: Severity, reason: str, message: str, *, action: str = "Reconcile"
    ) -> None:
        """Queue an Event: `reason` in CamelCase for machines, `message` in words, cut at 1 KiB."""
        happening = Happening(about, severity, reason, cut(message), action, datetime.now(UTC))
        try:
            self._queue.put_nowait(happening)
        except asyncio.QueueFull:
            self.num_dropped += 1

    @property
    def num_queued(self) -> int:
        """Return how many Events wait to be written."""
        return self._queue.qsize()

    async def run(self) -> None:
        """Write queued Events until cancelled, and then what is left for at most 2 s."""
        try:
            while True:
                await self._tell(await self._queue.get())
        finally:
            await self._last_words()

    async def _last_words(self) -> None:
        """Write what is still queued while there is time."""
        try:
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                while not self._queue.empty():
                    await self._tell(self._queue.get_nowait())
        except TimeoutError:
            self.num_dropped += self._queue.qsize()

    async def _tell(self, happening: Happening) -> None:
        """Write one Event, or count it to the one that is there; a refusal is logged."""
        try:
            await self._count_or_create(happening)
        except ApiError as error:
            self.num_dropped += 1
            logger.warning("event %s of %s: not written (%s)", happening.reason, happening.about.name, error)

    async def _count_or_create(self, happening: Happening) -> None:
        """Raise the count of a series that is still open, else begin one."""
        now = self._clock()
        series = self._series.get(happening.key)
        if series is None or now - series.seen_at > SERIES_SECONDS:
            await self._create(happening, now)
            return
        series.count += 1
        series.seen_at = now
        if now - series.written_at < REPEAT_SECONDS:
            return
        try:
            await self._patch(happening, series)
        except NotFoundError:  # the API server forgets Events after an hour
            await self._create(happening, now)
        else:
            series.written_at = now

    async def _create(self, happening: Happening, now: float) -> None:
        """Write the first Event of a series."""
        name = f"{happening.about.name[:200]}.{uuid.uuid4().hex[:16]}"
        await self._client.create(event_manifest(happening, name, self._component, self._instance))
        self._series[happening.key] = Series(name, 1, now, now)
        self._series.move_to_end(happening.key)
        if len(self._series) > MAX_SERIES:
            self._series.popitem(last=False)

    async def _patch(self, happening: Happening, series: Series) -> None:
        """Write the count of a series."""
        patch: Manifest = {"count": series.count, "lastTimestamp": _seconds_time(happening.at)}
        await self._client.merge_patch(EVENT, happening.about.namespace, series.name, patch)


def event_manifest(happening: Happening, name: str, component: str, instance: str) -> Manifest:
    """Return an Event of the core API: what `kubectl describe` and `kubectl get events` show."""
    at = _seconds_time(happening.at)
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": name, "namespace": happening.about.namespace},
        "involvedObject": happening.about.manifest(),
        "type": happening.severity,
        "reason": happening.reason,
        "message": happening.message,
        "action": happening.action,
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "source": {"component": component, "host": instance},
        "reportingComponent": component,
        "reportingInstance": instance,
    }


def cut(message: str) -> str:
    """Return a message of at most 1 KiB, with an ellipsis where it was longer."""
    encoded = message.encode()
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return message
    mark = "…"
    return encoded[: MAX_MESSAGE_BYTES - len(mark.encode())].decode(errors="ignore") + mark


def _seconds_time(at: datetime) -> str:
    """Return a time as metav1.Time is written: UTC in whole seconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
