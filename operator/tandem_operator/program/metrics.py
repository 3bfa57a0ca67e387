"""The operator's own numbers, for Prometheus."""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tandem_operator.kube.transport import Sample

RECONCILE_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STATUSES = ("True", "False", "Unknown")
WRITES = frozenset({"create", "update", "patch", "delete"})

__all__ = ["CONTENT_TYPE_LATEST", "ConditionTally", "Metrics"]


class Metrics:
    """A registry of its own with every series of the operator. No label holds the name of a job, pod or node."""

    def __init__(self, version: str = "unknown", identity: str = "") -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._reconcile = Histogram(
            "tandem_operator_reconcile_duration_seconds",
            "Duration of one pass of one job's funnel.",
            buckets=RECONCILE_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._errors = self._counter("reconcile_errors", "Passes that failed, by cause.", "reason")
        self._queue = self._gauge("queue_depth", "Jobs that wait for their funnel's turn.")
        self._watch_age = self._gauge("watch_age_seconds", "Time since a watch last said anything.", "kind")
        self._writes = self._counter("api_writes", "Requests that change the cluster.", "verb", "kind")
        self._leader = self._gauge("leader", "1 where this replica leads, else 0.")
        self._registry_age = self._gauge("registry_unreachable_seconds", "Time since the jobs' etcd last answered.")
        self._loop_lag = self._gauge("loop_lag_seconds", "How late the event loop's last heartbeat was.")
        self._conditions = Gauge(
            "tandem_rljob_condition",
            "Jobs by type and status of their conditions.",
            ("type", "status"),
            registry=self.registry,
        )
        build = self._gauge("build_info", "Always 1; the version and the name of this replica.", "version", "identity")
        build.labels(version, identity).set(1)
        self.conditions = ConditionTally(self._conditions)

    def observe_reconcile(self, seconds: float) -> None:
        """Note how long one pass of a funnel took."""
        self._reconcile.observe(seconds)

    @contextmanager
    def timed_reconcile(self) -> Iterator[None]:
        """Note how long the block takes, whether it fails or not."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.observe_reconcile(perf_counter() - begun)

    def count_error(self, reason: str) -> None:
        """Count a pass that failed. `reason`: a word out of a short list, never a message."""
        self._errors.labels(reason).inc()

    def count_request(self, sample: Sample) -> None:
        """Count a request where it changes the cluster; `kind` is RBAC's word, as `pods`. The client's `observe`."""
        if sample.verb in WRITES:
            self._writes.labels(sample.verb, sample.plural).inc()

    def show_queue(self, depth: int) -> None:
        """Show how many jobs wait."""
        self._queue.set(depth)

    def show_watch_age(self, kind: str, seconds: float) -> None:
        """Show how long a kind's watch has been silent."""
        self._watch_age.labels(kind).set(seconds)

    def show_leader(self, leads: bool) -> None:
        """Show whether this replica leads."""
        self._leader.set(1 if leads else 0)

    def show_registry_age(self, seconds: float) -> None:
        """Show how long the jobs' etcd has been away; 0 while it answers."""
        self._registry_age.set(seconds)

    def show_loop_lag(self, seconds: float) -> None:
        """Show how late the event loop is."""
        self._loop_lag.set(seconds)

    def text(self) -> bytes:
        """Return every series in Prometheus' text format. Safe from any thread."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"tandem_operator_{name}", help_text, labels, registry=self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"tandem_operator_{name}", help_text, labels, registry=self.registry)


class ConditionTally:
    """Counts jobs by type and status of their conditions; a job costs as many steps as it has conditions."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._jobs: dict[tuple[str, str], dict[str, str]] = {}
        self._counts: Tally[tuple[str, str]] = Tally()

    def note(self, namespace: str, name: str, conditions: Mapping[str, str]) -> None:
        """Take in the conditions that a job has now: type to `True`, `False` or `Unknown`."""
        before = self._jobs.get((namespace, name), {})
        self._jobs[namespace, name] = dict(conditions)
        self._move(before, conditions)

    def forget(self, namespace: str, name: str) -> None:
        """Leave out a job that is gone."""
        self._move(self._jobs.pop((namespace, name), {}), {})

    def _move(self, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        self._counts.subtract(before.items())
        self._counts.update(after.items())
        for kind in before.keys() | after.keys():
            for status in STATUSES:
                self._gauge.labels(kind, status).set(self._counts[kind, status])
