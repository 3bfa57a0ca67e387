"""One span tree a switch, sent to an OpenTelemetry collector: the switch, its members, their stages.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT (or the same for traces alone) names a collector; then it needs the packages of
the extra `otel`, which nothing else imports. A tree is made from the record of a complete switch, so no context has to
travel between pods: every start and every end is known.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from tandem_api.history import MemberStage, Record, SwitchRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger(__name__)

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTER_MODULE = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
SEND_SECONDS = 3.0
"""Time for one request to the collector; a master that ends waits no longer than that for its last spans."""
SERVICE = "tandem-master"

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]


@dataclass(frozen=True, slots=True)
class JobName:
    """Whose switches they are."""

    namespace: str
    name: str


class SwitchTracer:
    """Makes the spans of complete switches."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._tracer: Tracer = provider.get_tracer("tandem")

    def record(self, record: Record) -> None:
        """Take in one record of the diary; only switches have spans."""
        if isinstance(record, SwitchRecord):
            self._switch(record)

    def _switch(self, record: SwitchRecord) -> None:
        span = self._begin(None, f"switch {record.direction}", record.started_at, _attributes(record))
        by_member = sorted(record.stages, key=attrgetter("pod", "role", "started_at"))
        for _, stages in groupby(by_member, key=attrgetter("pod", "role")):
            self._member(span, tuple(stages))
        span.end(_nanoseconds(record.started_at + record.seconds))

    def _member(self, parent: "Span", stages: Sequence[MemberStage]) -> None:
        first = stages[0]
        place: Attributes = {"tandem.pod": first.pod, "tandem.role": first.role}
        span = self._begin(parent, f"{first.pod}/{first.role}", first.started_at, place)
        for stage in stages:
            child = self._begin(span, stage.stage, stage.started_at, {**place, "tandem.waits": stage.waits})
            child.end(_end_of(stage))
        span.end(max(map(_end_of, stages)))

    def _begin(self, parent: "Span | None", name: str, started_at: float, attributes: Attributes) -> "Span":
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        context = Context() if parent is None else set_span_in_context(parent, Context())
        return self._tracer.start_span(
            name, context=context, start_time=_nanoseconds(started_at), attributes=dict(attributes)
        )


@contextmanager
def open_tracer(environment: Mapping[str, str], job: JobName) -> Iterator[SwitchTracer | None]:
    """Send the spans of switches while the context is open; None where the environment names no collector.

    A collector without the packages that it takes costs a warning, and so does one that does not answer.
    """
    endpoint = next((variable for variable in ENDPOINT_VARIABLES if environment.get(variable)), None)
    if endpoint is None:
        yield None
        return
    if not _is_installed(EXPORTER_MODULE):
        logger.warning("%s: no traces are sent, the packages are missing; pip install 'tandem-rl[otel]'", endpoint)
        yield None
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = make_provider(OTLPSpanExporter(timeout=SEND_SECONDS), job)
    try:
        yield SwitchTracer(provider)
    finally:
        provider.shutdown()


def make_provider(exporter: "SpanExporter", job: JobName) -> "TracerProvider":
    """Return a provider of our own, which no other library's spans go through; it sends from a thread of its own."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": SERVICE, "service.namespace": job.namespace, "tandem.job": job.name})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False


def _attributes(record: SwitchRecord) -> Attributes:
    attributes: Attributes = {
        "tandem.epoch": record.epoch,
        "tandem.iteration": record.iteration,
        "tandem.generation": record.generation,
        "tandem.direction": record.direction,
        "tandem.first": record.first,
    }
    path = record.critical_path
    if path is None:
        return attributes
    steps = [f"{step.pod}/{step.role} {step.stage} {step.seconds:.3f}" for step in path.segments]
    return {**attributes, "tandem.critical_path": steps, "tandem.critical_path_share": path.share}


def _end_of(stage: MemberStage) -> int:
    return _nanoseconds(stage.started_at + stage.seconds)


def _nanoseconds(unix_seconds: float) -> int:
    return round(unix_seconds * 1e9)
