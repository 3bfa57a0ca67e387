"""Whether and when a request is sent again."""

from dataclasses import dataclass

from tandem_operator.kube.errors import ApiError, is_transient


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that grow by a factor up to a bound, each shortened by a random part."""

    first_seconds: float = 0.25
    factor: float = 2.0
    longest_seconds: float = 10.0
    jitter: float = 0.5
    """Largest part of a pause that chance takes off: 0.5 means between a half and the whole."""

    def pause_seconds(self, num_failures: int, chance: float) -> float:
        """Return the pause after so many failures in a row (from 1), with `chance` in [0, 1)."""
        steps = min(num_failures - 1, 64)
        whole_seconds = min(self.longest_seconds, self.first_seconds * self.factor**steps)
        return whole_seconds * (1.0 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The deadlines of a request and how often it is tried."""

    attempt_seconds: float = 15.0
    """Longest time for one answer."""
    deadline_seconds: float = 60.0
    """Longest time for all attempts with their pauses, beside the wait for a turn to write."""
    max_attempts: int = 6
    backoff: Backoff = Backoff()

    def pause_seconds(self, error: ApiError, num_attempts: int, chance: float) -> float | None:
        """Return how long to wait before the next attempt; None where there shall be none."""
        if num_attempts >= self.max_attempts or not is_transient(error):
            return None
        return max(self.backoff.pause_seconds(num_attempts, chance), error.retry_after_seconds or 0.0)


PATIENT = RetryPolicy()
"""For most requests."""

ONCE = RetryPolicy(attempt_seconds=5.0, deadline_seconds=5.0, max_attempts=1)
"""For a caller that decides itself what a failure means, as the holder of a lease."""
