"""Crash loops: the first ends are mended at once, later ones after pauses, and too many not at all."""

from collections import deque
from dataclasses import dataclass, field

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0


@dataclass(slots=True)
class Backoff:
    """Counts the ends of what is started again and again. Pure: the clock is the caller's."""

    most: int = 6
    """Ends within the window after which it is given up."""
    window_seconds: float = 120.0
    _ends: deque[float] = field(default_factory=deque)

    def note_end(self, now: float) -> float | None:
        """Return the pause in seconds before the next start; None where it has ended too often.

        Args: now: a monotonic clock, seconds.
        """
        while self._ends and self._ends[0] <= now - self.window_seconds:
            self._ends.popleft()
        self._ends.append(now)
        number = len(self._ends)
        if number >= self.most:
            return None
        return 0.0 if number == 1 else min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (number - 2))
