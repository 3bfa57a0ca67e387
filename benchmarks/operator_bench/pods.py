"""The pods of a namespace, kept up to date by a watch, and waits for what becomes of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from time import monotonic
from typing import Any

from benchmarks.operator_bench.api import Api


class PodWatch:
    """Which pods there are, and which of them are Ready."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._ready: dict[str, bool] = {}
        self._changed = asyncio.Event()

    @property
    def num_pods(self) -> int:
        """Return how many there are, those that are being deleted too."""
        return len(self._ready)

    @property
    def num_ready(self) -> int:
        """Return how many are Ready."""
        return sum(self._ready.values())

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> float:
        """Wait; return the moment as `monotonic` counts. TimeoutError says what did not happen."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            seen = f"{self.num_pods} pods, {self.num_ready} Ready"
            raise TimeoutError(f"{what}: not within {seconds:.0f} s; there are {seen}") from None
        return monotonic()

    async def follow(self) -> None:
        """List once, then follow the watch for ever."""
        listed = await self._api.send("GET", self._path)
        version: str = listed["metadata"]["resourceVersion"]
        for pod in listed["items"]:
            self._take("ADDED", pod)
        while True:
            async with aclosing(self._api.watch(self._path, version)) as events:
                async for event in events:
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._take(event["type"], event["object"])

    def _take(self, kind: str, pod: dict[str, Any]) -> None:
        if kind == "BOOKMARK":
            return
        name = pod["metadata"]["name"]
        if kind == "DELETED":
            self._ready.pop(name, None)
        else:
            conditions = pod["status"].get("conditions", [])
            self._ready[name] = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
        self._changed.set()


@asynccontextmanager
async def watch_pods(api: Api, namespace: str) -> AsyncIterator[PodWatch]:
    """Keep a watch while the context is open."""
    watch = PodWatch(api, namespace)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(watch.follow(), name=f"pods of {namespace}")
        yield watch
        following.cancel()
