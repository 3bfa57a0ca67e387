"""A small API server over HTTP that keeps JSON objects, serves lists in pages and watches, and fails on demand.

It stands at the protocol: it knows versions, conflicts, selectors by label, bookmarks, expiry and `Status` answers,
and no schema. What it does is what the contract suite shows of the real one.
"""

import asyncio
import contextlib
import re
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

PATH = re.compile(r"(/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/([^/]+))?/([^/]+)(?:/([^/]+))?(?:/(status))?")
SERVED = {
    "/apis/tandem.dev/v1alpha1": ("rljobs",),
    "/api/v1": ("pods", "configmaps"),
}
"""What discovery names by default."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """What a path names."""

    group: str
    plural: str
    namespace: str | None
    name: str | None
    subresource: str | None

    def holds(self, other: "Place") -> bool:
        """Return whether an object lies in this collection."""
        return (self.group, self.plural) == (other.group, other.plural) and self.namespace in (None, other.namespace)


@dataclass(frozen=True)
class Fault:
    """What happens to one request instead of its answer."""

    status: int = 0
    """0 for a connection that is cut."""
    headers: tuple[tuple[str, str], ...] = ()
    carried_out: bool = False
    """Whether the request has its effect all the same."""
    hangs: bool = False
    """Whether no answer ever comes."""
    method: str = ""
    """Only a request by this method meets it; any where empty."""
    cause: str = ""
    """Reason of the cause that the answer names; without one it is plain text."""


class RefusalError(Exception):
    """An answer that is a `Status`."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status: Json = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


class FakeApi:
    """One API server on a free port of this machine."""

    def __init__(self) -> None:
        self.url = ""
        self.faults: deque[Fault] = deque()
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        self.bodies: list[Json] = []
        self.authorizations: list[str] = []
        self.discovered = dict(SERVED)
        self.unserved: set[str] = set()
        """Kinds that this cluster does not know."""
        self.compacted = 0
        """Watches from an older version meet 410."""
        self._version = 100
        self._objects: dict[Place, Json] = {}
        self._events: list[tuple[int, Place, str, Json]] = []
        self._changed = asyncio.Condition()
        self._watches: dict[int, web.Request] = {}
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start(self) -> None:
        """Listen."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Cut what is open and end."""
        self.cut_watches()
        await self._runner.cleanup()

    def num_requests(self, method: str, **query: str) -> int:
        """Return how many requests came with a method and with values in the query."""
        return sum(1 for sent in self.requests if sent[0] == method and query.items() <= sent[2].items())

    @property
    def num_watches(self) -> int:
        """Return how many watches are open."""
        return len(self._watches)

    def cut_watches(self) -> None:
        """Cut the connections of all watches."""
        for request in self._watches.values():
            if request.transport is not None:
                request.transport.abort()
        self._watches.clear()

    def compact(self) -> None:
        """Forget past events: a watch from before now is too old."""
        self.compacted = self._next_version()

    async def bookmark(self) -> None:
        """Send a bookmark on all watches."""
        await self._publish(Place("", "", None, None, None), "BOOKMARK", {"metadata": {}}, self._version)

    async def write(self, path: str, manifest: Json) -> Json:
        """Store an object as if another client had."""
        return await self._store(_place(path), manifest)

    async def erase(self, path: str) -> None:
        """Remove an object as if another client had."""
        await self._remove(_place(path))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, dict(request.query)))
        self.authorizations.append(request.headers.get("Authorization", ""))
        fault = self._fault(request.method)
        if fault is not None and fault.hangs:
            await asyncio.sleep(3600)
        if fault is not None and not fault.carried_out:
            return _failed(request, fault)
        try:
            answer = await self._carry_out(request)
        except RefusalError as refusal:
            return web.json_response(refusal.status, status=refusal.status["code"])
        return answer if fault is None else _failed(request, fault)

    def _fault(self, method: str) -> Fault | None:
        if not self.faults or self.faults[0].method not in ("", method):
            return None
        return self.faults.popleft()

    async def _carry_out(self, request: web.Request) -> web.StreamResponse:
        if request.path in self.discovered:
            known = [name for name in self.discovered[request.path] if name not in self.unserved]
            return web.json_response({"resources": [{"name": name} for name in known]})
        place = _place(request.path)
        if place.plural in self.unserved:
            raise RefusalError(404, "NotFound", "the server could not find the requested resource")
        body = orjson.loads(await request.read() or b"{}")
        self.bodies.append(body)
        if request.method == "GET" and "watch" in request.query:
            return await self._watch(request, place)
        if request.method == "GET" and place.name is None:
            return web.json_response(self._page(place, request.query))
        change = {"GET": self._get, "POST": self._create, "PUT": self._replace, "PATCH": self._patch}
        if request.method == "DELETE":
            return web.json_response(await self._delete(place, body))
        return web.json_response(await change[request.method](place, body))

    async def _get(self, place: Place, body: Json) -> Json:
        known = self._objects.get(_whole(place))
        if known is None:
            raise RefusalError(404, "NotFound", f'{place.plural} "{place.name}" not found')
        return known

    async def _create(self, place: Place, body: Json) -> Json:
        target = Place(place.group, place.plural, place.namespace, body["metadata"]["name"], None)
        if target in self._objects:
            raise RefusalError(409, "AlreadyExists", f'{target.plural} "{target.name}" already exists')
        return await self._store(target, body)

    async def _replace(self, place: Place, body: Json) -> Json:
        known = await self._get(place, body)
        if body["metadata"].get("resourceVersion", known["metadata"]["resourceVersion"]) != _version_of(known):
            raise RefusalError(
                409, "Conflict", "the object has been modified; apply your changes to the latest version"
            )
        return await self._store(_whole(place), {**body, "metadata": {**known["metadata"], **body["metadata"]}})

    async def _patch(self, place: Place, body: Json) -> Json:
        known = self._objects.get(_whole(place), {})
        wanted = body.get("metadata", {}).get("resourceVersion")
        if not known and "kind" not in body:
            raise RefusalError(404, "NotFound", f'{place.plural} "{place.name}" not found')
        if wanted is not None and wanted != _version_of(known):
            raise RefusalError(
                409, "Conflict", "the object has been modified; apply your changes to the latest version"
            )
        return await self._store(_whole(place), _merged(known, body))

    async def _delete(self, place: Place, body: Json) -> Json:
        known = await self._get(place, body)
        uid = body.get("preconditions", {}).get("uid")
        if uid is not None and uid != known["metadata"]["uid"]:
            raise RefusalError(409, "Conflict", "Precondition failed: UID in precondition")
        await self._remove(place)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _page(self, place: Place, query: Mapping[str, str]) -> Json:
        chosen = [
            {key: value for key, value in known.items() if key not in ("apiVersion", "kind")}
            for where, known in sorted(self._objects.items(), key=lambda item: str(item[0]))
            if place.holds(where) and _selected(known, query.get("labelSelector", ""))
        ]
        version, _, offset = query.get("continue", f"{self._version}:0").partition(":")
        if int(version) < self.compacted:
            raise RefusalError(410, "Expired", "The provided continue parameter is too old")
        end = int(offset) + int(query.get("limit", "1000000"))
        metadata = {"resourceVersion": version, **({"continue": f"{version}:{end}"} if end < len(chosen) else {})}
        return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": chosen[int(offset) : end]}

    async def _watch(self, request: web.Request, place: Place) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        seen = int(request.query["resourceVersion"])
        if seen < self.compacted:
            expired = RefusalError(410, "Expired", f"too old resource version: {seen}")
            await response.write(_line("ERROR", expired.status))
            return response
        self._watches[id(request)] = request
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            async with asyncio.timeout(int(request.query["timeoutSeconds"])):
                await self._stream(response, place, request.query.get("labelSelector", ""), seen)
        self._watches.pop(id(request), None)
        return response

    async def _stream(self, response: web.StreamResponse, place: Place, selector: str, seen: int) -> None:
        position = next((index for index, event in enumerate(self._events) if event[0] > seen), len(self._events))
        while True:
            for _, where, change, manifest in self._events[position:]:
                if change == "BOOKMARK":
                    await response.write(_line(change, {"kind": place.plural, **manifest}))
                elif place.holds(where) and _selected(manifest, selector):
                    await response.write(_line(change, manifest))
            position = len(self._events)
            async with self._changed:
                while len(self._events) == position:
                    await self._changed.wait()

    async def _store(self, place: Place, manifest: Json) -> Json:
        known = self._objects.get(place)
        version = self._next_version()
        metadata = {
            "uid": str(uuid.uuid4()) if known is None else known["metadata"]["uid"],
            **manifest["metadata"],
            "namespace": place.namespace,
            "name": place.name,
            "resourceVersion": str(version),
        }
        stored = {**manifest, "metadata": metadata}
        self._objects[place] = stored
        await self._publish(place, "ADDED" if known is None else "MODIFIED", stored, version)
        return stored

    async def _remove(self, place: Place) -> None:
        known = self._objects.pop(place)
        version = self._next_version()
        await self._publish(place, "DELETED", known, version)

    async def _publish(self, place: Place, change: str, manifest: Json, version: int) -> None:
        told = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(version)}}
        async with self._changed:
            self._events.append((version, place, change, told))
            self._changed.notify_all()

    def _next_version(self) -> int:
        self._version += 1
        return self._version


def _place(path: str) -> Place:
    found = PATH.fullmatch(path)
    if found is None:
        raise RefusalError(404, "NotFound", "the server could not find the requested resource")
    group, namespace, plural, name, subresource = found.groups()
    return Place(group, plural, namespace, name, subresource)


def _whole(place: Place) -> Place:
    """Return the object that a subresource is of."""
    return Place(place.group, place.plural, place.namespace, place.name, None)


def _failed(request: web.Request, fault: Fault) -> web.StreamResponse:
    if fault.status == 0 and request.transport is not None:
        request.transport.abort()
    if fault.cause:
        details = {"causes": [{"reason": fault.cause, "message": "as the test asked"}]}
        return web.json_response({"kind": "Status", "code": fault.status, "details": details}, status=fault.status)
    return web.Response(status=fault.status or 500, headers=dict(fault.headers), text="as the test asked")


def _line(change: str, manifest: Json) -> bytes:
    return orjson.dumps({"type": change, "object": manifest}) + b"\n"


def _version_of(manifest: Json) -> str:
    return str(manifest.get("metadata", {}).get("resourceVersion", ""))


def _selected(manifest: Json, selector: str) -> bool:
    labels = manifest["metadata"].get("labels", {})
    key, equals, value = selector.partition("=")
    return not selector or (labels.get(key) == value if equals else key in labels)


def _merged(known: Json, patch: Json) -> Json:
    merged = dict(known)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged
