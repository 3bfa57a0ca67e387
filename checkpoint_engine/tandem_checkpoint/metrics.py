"""A member's own numbers, for Prometheus."""

from collections.abc import Callable
from time import monotonic
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tandem_api.job.status import Direction
from tandem_api.metrics import (
    MEMBER,
    SWITCH_BUCKETS_SECONDS,
    SWITCH_HELP,
    SWITCH_HISTOGRAM,
    WAIT_OF_REASON,
    Activity,
    Interruption,
    SwitchReason,
    SwitchResult,
    Wait,
    stage_label,
)
from tandem_api.registry import FailureReason

__all__ = ["CONTENT_TYPE_LATEST", "Child", "EngineMetrics", "Way"]

Child = Literal["rank", "server", "zygote"]
"""Processes whose end is counted."""
CHILDREN: tuple[Child, ...] = ("rank", "server", "zygote")
Way = Literal["export", "bind", "fetch"]
"""What is done to weights: written into a segment, bound by a server, read from another pod."""
WAYS: tuple[Way, ...] = ("export", "bind", "fetch")


def switch_histogram(registry: CollectorRegistry) -> Histogram:
    """Return the one histogram that engines and master both observe, in a registry."""
    return Histogram(
        SWITCH_HISTOGRAM, SWITCH_HELP, ("direction", "stage"), buckets=SWITCH_BUCKETS_SECONDS, registry=registry
    )


class EngineMetrics:
    """Every series of one member, in a registry of its own. No label holds the name of a job, pod or node."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds that never go back."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._clock = clock
        self._activity, self._since = Activity.IDLE, clock()
        self._stages = switch_histogram(self.registry)
        self._switches = self._counter(
            "switches", "Switches of this member, by how they ended.", "direction", "result", "reason"
        )
        self._deadlines = self._counter("missed_deadlines", "Waits that lasted past their deadline.", "wait")
        self._leases = self._counter("lost_leases", "Times that the registry dropped this member.")
        self._children = self._counter("children_ended", "Processes that ended by themselves.", "child")
        self._bytes = self._counter("weights_bytes", "Bytes of weights exported, bound and fetched.", "way")
        self._seconds = self._counter("weights_seconds", "Time that went to these bytes.", "way")
        self._bandwidth = self._gauge("weights_bytes_per_second", "The same of the last time.", "way")
        self._duty = self._counter("activity_seconds", "What this member's time went to.", "activity")
        self._device_bytes = self._gauge("device_bytes", "Device memory that this member holds.")
        self._generation = self._gauge("generation", "Generation of the weights that this member holds.")
        self._epoch = self._gauge("epoch", "Last switch that this member took part in.")
        self._begin_at_zero()

    def stage(self, direction: Direction, stage: str, seconds: float) -> None:
        """Note how long one stage, or one wait, of a switch took."""
        self._stages.labels(direction, stage_label(stage)).observe(seconds)

    def switch_ended(
        self, direction: Direction, result: SwitchResult, reason: SwitchReason = Interruption.NONE, seconds: float = 0.0
    ) -> None:
        """Count a switch; `seconds`, from the master's word on, count only where it is done."""
        self._switches.labels(direction, result, reason).inc()
        if result is SwitchResult.DONE:
            self._stages.labels(direction, MEMBER).observe(seconds)
        wait = WAIT_OF_REASON.get(reason) if isinstance(reason, FailureReason) else None
        if wait is not None:
            self.deadline_missed(wait)

    def deadline_missed(self, wait: Wait) -> None:
        """Count a wait that lasted too long; of a switch that fails by one, `switch_ended` counts it."""
        self._deadlines.labels(wait).inc()

    def lease_lost(self) -> None:
        """Count a lease that expired."""
        self._leases.inc()

    def child_ended(self, name: Child) -> None:
        """Count a process that ended by itself."""
        self._children.labels(name).inc()

    def exported(self, num_bytes: int, seconds: float) -> None:
        """Note what the ranks of this pod have written into a segment."""
        self._moved("export", num_bytes, seconds)

    def bound(self, num_bytes: int, seconds: float) -> None:
        """Note what the servers of this pod have taken for their weights."""
        self._moved("bind", num_bytes, seconds)

    def fetched(self, num_bytes: int, seconds: float) -> None:
        """Note what was read from other pods."""
        self._moved("fetch", num_bytes, seconds)

    def holds(self, *, epoch: int, generation: int | None, device_bytes: int | None) -> None:
        """Show what the member holds; what is not known stays as it was."""
        self._epoch.set(epoch)
        if generation is not None:
            self._generation.set(generation)
        if device_bytes is not None:
            self._device_bytes.set(device_bytes)

    def phase(self, activity: Activity) -> None:
        """Count time for another activity from now on."""
        self._count_time()
        self._activity = activity

    def rendered(self) -> bytes:
        """Return every series in Prometheus' text format (CONTENT_TYPE_LATEST), the running activity up to now."""
        self._count_time()
        return generate_latest(self.registry)

    def _moved(self, way: Way, num_bytes: int, seconds: float) -> None:
        self._bytes.labels(way).inc(num_bytes)
        self._seconds.labels(way).inc(seconds)
        if seconds > 0:
            self._bandwidth.labels(way).set(num_bytes / seconds)

    def _count_time(self) -> None:
        now = self._clock()
        self._duty.labels(self._activity).inc(max(0.0, now - self._since))
        self._since = now

    def _begin_at_zero(self) -> None:
        """Make the series that should be there before anything happens: a rate needs a value before the first one."""
        _touch(self._switches, *((direction, SwitchResult.DONE, Interruption.NONE) for direction in Direction))
        _touch(self._deadlines, *((wait,) for wait in Wait))
        _touch(self._children, *((child,) for child in CHILDREN))
        _touch(self._bytes, *((way,) for way in WAYS))
        _touch(self._seconds, *((way,) for way in WAYS))
        _touch(self._duty, *((activity,) for activity in Activity))

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"tandem_engine_{name}", help_text, labels, registry=self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"tandem_engine_{name}", help_text, labels, registry=self.registry)


def _touch(counter: Counter, *label_values: tuple[str, ...]) -> None:
    for values in label_values:
        counter.labels(*values)
