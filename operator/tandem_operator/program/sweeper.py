"""Deletes the registry's keys of jobs that are gone, once no pod of theirs is left that could write new ones."""

import asyncio
import logging

from tandem_operator.kube.cache import ChildCache
from tandem_operator.kube.resources import POD
from tandem_operator.progress import ProgressMirror

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 2.0
NUM_LOOKS = 300
"""Ten minutes. A pod on a node that is lost may stay in Terminating for ever; its keys then stay too."""


class Sweeper:
    """Best effort: keys that stay cost a few kilobytes of etcd and harm nobody."""

    def __init__(self, cache: ChildCache, progress: ProgressMirror) -> None:
        self._cache = cache
        self._progress = progress
        self._sweeps: dict[tuple[str, str], asyncio.Task[None]] = {}

    def sweep(self, namespace: str, name: str) -> None:
        """Delete a gone job's keys in the background."""
        self.spare(namespace, name)
        task = asyncio.create_task(self._sweep(namespace, name), name=f"sweep of {namespace}/{name}")
        self._sweeps[namespace, name] = task
        task.add_done_callback(lambda done: self._ended((namespace, name), done))

    def spare(self, namespace: str, name: str) -> None:
        """Keep the keys after all: a new job has taken the name, and the keys are its own now."""
        task = self._sweeps.pop((namespace, name), None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop; what is not deleted yet stays."""
        tasks = list(self._sweeps.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _sweep(self, namespace: str, name: str) -> None:
        for _ in range(NUM_LOOKS):
            if not self._cache.children(namespace, name, POD):
                await self._progress.forget(namespace, name)
                return
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        logger.warning("the keys of the deleted job %s/%s stay in etcd: a pod of it is still there", namespace, name)

    def _ended(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        if self._sweeps.get(key) is task:
            del self._sweeps[key]
