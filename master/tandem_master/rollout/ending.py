"""When an Infer phase ends before every trajectory has used its budget (report, section 2.6.2)."""

import asyncio
from dataclasses import dataclass
from math import ceil

from tandem_api.history import PhaseEnd


@dataclass(frozen=True, slots=True)
class StopRule:
    """What is enough. Pure."""

    complete_share: float | None = None
    """Of the trajectories that an iteration wants; None: all of them."""
    deadline_seconds: float | None = None
    """From the moment when servers answer; None: none."""

    def is_enough(self, num_complete: int, num_wanted: int) -> bool:
        """Return whether enough trajectories are complete. Never where none is, or where all are: these have ended."""
        if self.complete_share is None or not 0 < num_complete < num_wanted:
            return False
        # The share is a decimal fraction: 0.7 of 10 is 7, although 0.7 * 10 may be a little more.
        return num_complete >= ceil(self.complete_share * num_wanted - 1e-9)


class Ending:
    """Whether, and why, one Infer phase is to end now. What strikes first is the reason."""

    def __init__(self) -> None:
        self._struck = asyncio.Event()
        self._sampled = asyncio.Event()
        self.reason = PhaseEnd.ALL
        self.num_heard = 0
        """Times that a server has sampled something."""

    @property
    def has_struck(self) -> bool:
        return self._struck.is_set()

    def strike(self, reason: PhaseEnd) -> None:
        """End the phase, if it has not been ended."""
        if not self.has_struck:
            self.reason = reason
            self._struck.set()

    def heard(self) -> None:
        """Take note that a server has sampled something."""
        self.num_heard += 1
        self._sampled.set()

    async def struck(self) -> None:
        """Wait for the end."""
        await self._struck.wait()

    async def strike_after(self, seconds: float) -> None:
        """End the phase after so long; not before anything was sampled, so that every phase gets on."""
        await asyncio.sleep(seconds)
        await self._sampled.wait()
        self.strike(PhaseEnd.DEADLINE)
