"""The `progress` key: how the job is doing, for the operator and the command line."""

import asyncio
import logging

from tandem_api.job.status import EvaluationStatus, SwitchSummary
from tandem_api.registry import Progress
from tandem_checkpoint.registry.errors import RegistryUnreachable
from tandem_master.mastership import Mastership

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
"""Counts are written no more often than this; a new activity is written at once."""


Change = int | float | str | tuple[SwitchSummary, ...] | tuple[EvaluationStatus, ...]
"""Value of a field of Progress."""


class ProgressBoard:
    """Holds the latest progress and writes it behind the loop's back: the loop never waits for it."""

    def __init__(self, mastership: Mastership, key: str, progress: Progress) -> None:
        self._mastership = mastership
        self._key = key
        self._progress = progress
        self._changes: dict[str, Change] = {}
        """Since then: a job changes a count thousands of times a second, and somebody looks twice a second."""
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._changed.set()

    @property
    def progress(self) -> Progress:
        self._progress = self._progress.model_copy(update=self._changes)
        self._changes = {}
        return self._progress

    def show(self, **changes: Change) -> None:
        """Change the named fields of Progress (snake_case)."""
        if "activity" in changes and changes["activity"] != self.progress.activity:
            self._urgent.set()
        self._changes |= changes
        self._changed.set()

    async def publish(self) -> None:
        """Write every change, forever. Errors: Fenced, LeaseLost; an unreachable registry only costs a warning."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._urgent.clear()
            try:
                await self._mastership.write(self._key, self.progress.model_dump_json(), leased=True)
            except RegistryUnreachable as error:
                logger.warning("progress was not written: %s", error)
            try:
                async with asyncio.timeout(INTERVAL_SECONDS):
                    await self._urgent.wait()
            except TimeoutError:
                continue

    async def close(self, activity: str, error: str | None) -> None:
        """Write the last progress, without a lease: it must outlive the master for people to read it."""
        self._progress = self.progress.model_copy(update={"activity": activity, "error": error})
        await self._mastership.write(self._key, self._progress.model_dump_json())
