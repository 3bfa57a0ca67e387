"""The verbs of the Kubernetes API on raw JSON objects."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Literal

import orjson

from tandem_operator.kube.credentials import Connection
from tandem_operator.kube.errors import ApiError, NotFoundError, error_of
from tandem_operator.kube.limits import WriteLimit
from tandem_operator.kube.manifest import Manifest, name_of, namespace_of, sections, text
from tandem_operator.kube.resources import ResourceKind, kind_of
from tandem_operator.kube.retry import ONCE, PATIENT, RetryPolicy
from tandem_operator.kube.transport import (
    APPLY_PATCH,
    MERGE_PATCH,
    Observer,
    Request,
    StreamDeadline,
    Transport,
    ignore_sample,
)

FIELD_MANAGER = "tandem-operator"
PAGE_SIZE = 500
WATCH_END_SECONDS = 10
"""How much longer than its time a watch may take to end."""

Propagation = Literal["Background", "Foreground", "Orphan"]
EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    items: tuple[Manifest, ...]
    resource_version: str
    """Of the whole list; a watch goes on from it."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change; of a bookmark's object only the resourceVersion is set."""

    type: EventType
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects a list or a watch is about."""

    kind: ResourceKind
    namespace: str | None = None
    """None for all namespaces."""
    label_selector: str = ""
    field_selector: str = ""

    @property
    def path(self) -> str:
        """Return the path of the collection."""
        return self.kind.collection_path(self.namespace)

    @property
    def query(self) -> tuple[tuple[str, str], ...]:
        """Return the selectors as a query."""
        selectors = (("labelSelector", self.label_selector), ("fieldSelector", self.field_selector))
        return tuple(item for item in selectors if item[1])


class KubeClient:
    """Requests of one operator to one API server. Every call has a deadline and raises ApiError."""

    def __init__(
        self,
        connection: Connection,
        *,
        limit: WriteLimit | None = None,
        retry: RetryPolicy = PATIENT,
        observe: Observer = ignore_sample,
    ) -> None:
        self._transport = Transport(
            connection, limit=WriteLimit() if limit is None else limit, retry=retry, observe=observe
        )

    def urgent(self) -> "KubeClient":
        """Return a client over the same connection that waits for no turn and tries once, for 5 s: for leases."""
        other = KubeClient.__new__(KubeClient)
        other._transport = self._transport.with_policy(limit=None, retry=ONCE)
        return other

    async def get(
        self, kind: ResourceKind, namespace: str | None, name: str, *, subresource: str | None = None
    ) -> Manifest:
        """Return one object."""
        return await self._send("get", "GET", kind, kind.object_path(namespace, name, subresource))

    async def find(self, kind: ResourceKind, namespace: str | None, name: str) -> Manifest | None:
        """Return one object; None where it is not there."""
        try:
            return await self.get(kind, namespace, name)
        except NotFoundError:
            return None

    async def pages(self, selection: Selection, *, limit: int = PAGE_SIZE) -> AsyncGenerator[Page, None]:
        """Yield a list page by page, all of one moment; GoneError where the moment passed away in between."""
        continue_token = ""
        while True:
            paging = (("limit", str(limit)), *((("continue", continue_token),) if continue_token else ()))
            listed = await self._send("list", "GET", selection.kind, selection.path, query=(*selection.query, *paging))
            yield _page(listed, selection.kind)
            continue_token = text(listed, "metadata", "continue")
            if not continue_token:
                return

    async def objects(self, selection: Selection, *, limit: int = PAGE_SIZE) -> AsyncGenerator[Manifest, None]:
        """Yield the objects of a list, page by page."""
        async with contextlib.aclosing(self.pages(selection, limit=limit)) as pages:
            async for page in pages:
                for item in page.items:
                    yield item

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object and return it as stored; AlreadyExists also where an answer was lost on the way."""
        kind = kind_of(manifest)
        path = kind.collection_path(namespace_of(manifest) or None)
        return await self._send("create", "POST", kind, path, query=_MANAGER, body=manifest)

    async def apply(self, manifest: Manifest, *, subresource: str | None = None, force: bool = True) -> Manifest:
        """Create or change an object by server-side apply and return it as stored.

        `force` takes fields from other managers; without it a field that somebody else has set is a ConflictError.
        """
        kind = kind_of(manifest)
        path = kind.object_path(namespace_of(manifest) or None, name_of(manifest), subresource)
        query = (*_MANAGER, ("force", "true" if force else "false"))
        return await self._send("patch", "PATCH", kind, path, query=query, body=manifest, content_type=APPLY_PATCH)

    async def merge_patch(
        self, kind: ResourceKind, namespace: str | None, name: str, patch: Manifest, *, subresource: str | None = None
    ) -> Manifest:
        """Change fields by a JSON merge patch; with metadata.resourceVersion in it, ConflictError where it is stale."""
        path = kind.object_path(namespace, name, subresource)
        return await self._send("patch", "PATCH", kind, path, query=_MANAGER, body=patch, content_type=MERGE_PATCH)

    async def replace(self, manifest: Manifest, *, subresource: str | None = None) -> Manifest:
        """Replace an object; ConflictError where it is not at the manifest's resourceVersion any more."""
        kind = kind_of(manifest)
        path = kind.object_path(namespace_of(manifest) or None, name_of(manifest), subresource)
        return await self._send("update", "PUT", kind, path, query=_MANAGER, body=manifest)

    async def delete(
        self,
        kind: ResourceKind,
        namespace: str | None,
        name: str,
        *,
        propagation: Propagation = "Background",
        grace_seconds: int | None = None,
        uid: str | None = None,
    ) -> None:
        """Ask for an object's deletion; NotFoundError where it is gone, ConflictError where its uid is another."""
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        await self._send("delete", "DELETE", kind, kind.object_path(namespace, name), body=options)

    async def watch(
        self,
        selection: Selection,
        *,
        resource_version: str,
        timeout_seconds: int = 290,
        idle_seconds: float = 150.0,
        on_open: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield changes after a resourceVersion, bookmarks too, until the server ends the watch at its time.

        GoneError where the version is too old, StaleError where nothing, not even a bookmark, came for `idle_seconds`,
        UnreachableError where the connection broke. Close it with `contextlib.aclosing`.
        """
        query = (
            *selection.query,
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", resource_version),
            ("timeoutSeconds", str(timeout_seconds)),
        )
        request = Request("watch", "GET", selection.path, selection.kind.plural, query)
        deadline = StreamDeadline(idle_seconds=idle_seconds, total_seconds=timeout_seconds + WATCH_END_SECONDS)
        async with self._transport.lines(request, deadline) as lines:
            on_open()
            async for line in lines:
                yield _event(line, request)

    async def serves(self, kind: ResourceKind) -> bool:
        """Return whether the API server knows a kind in this version."""
        try:
            known = await self._send("get", "GET", kind, kind.group_path)
        except NotFoundError:
            return False
        return any(text(resource, "name") == kind.plural for resource in sections(known, "resources"))

    async def _send(
        self,
        verb: str,
        method: str,
        kind: ResourceKind,
        path: str,
        *,
        query: tuple[tuple[str, str], ...] = (),
        body: Manifest | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """Return the answer to one request."""
        return await self._transport.send(Request(verb, method, path, kind.plural, query, body, content_type))


_MANAGER = (("fieldManager", FIELD_MANAGER),)


def _page(listed: Manifest, kind: ResourceKind) -> Page:
    """Return a page; its items name their kind, which a list leaves out."""
    named: Manifest = {"apiVersion": kind.api_version, "kind": kind.kind}
    return Page(
        items=tuple(named | item for item in sections(listed, "items")),
        resource_version=text(listed, "metadata", "resourceVersion"),
    )


def _event(line: bytes, request: Request) -> WatchEvent:
    """Return the event of a line; ApiError for one that tells of an error or is no event."""
    try:
        event = orjson.loads(line)
        event_type, manifest = event["type"], event["object"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ApiError(0, "NotAnEvent", f"{request}: a line of the watch is no event ({error})") from error
    if event_type == "ERROR":
        raise error_of(manifest, http_status=500, request=str(request))
    return WatchEvent(event_type, manifest)
