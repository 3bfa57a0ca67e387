"""Spans of switches for an OpenTelemetry collector."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tandem_api.history import RunEnded
from tandem_master.tracing import EXPORTER_MODULE, JobName, SwitchTracer, make_provider, open_tracer
from tests.tandem_api.switches import STARTED_AT
from tests.tandem_master.switches import switch_record

memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
JOB = JobName("team", "reverse-digits")


class Spans:
    """What a collector would have got, by name."""

    def __init__(self) -> None:
        self._exporter = memory.InMemorySpanExporter()
        self._provider = make_provider(self._exporter, JOB)
        self.tracer = SwitchTracer(self._provider)

    def all(self) -> list:  # type: ignore[type-arg]
        self._provider.force_flush()
        return list(self._exporter.get_finished_spans())

    def one(self, name: str):  # type: ignore[no-untyped-def]
        (span,) = [span for span in self.all() if span.name == name]
        return span

    def below(self, name: str) -> list[str]:
        """Return the names of a span's children, in order of time."""
        parent = self.one(name).context.span_id
        children = [span for span in self.all() if span.parent is not None and span.parent.span_id == parent]
        return [span.name for span in sorted(children, key=lambda span: (span.start_time, span.end_time))]


@pytest.fixture
def spans() -> Spans:
    return Spans()


class Collector:
    """A collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.requests.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, args=(0.02,))
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def test_a_switch_is_one_tree_of_members_and_their_stages(spans: Spans) -> None:
    spans.tracer.record(switch_record(num_pods=2))

    assert sorted(spans.below("switch TrainToInfer")) == [
        "hybrid-0/rollout", "hybrid-0/train", "hybrid-1/rollout", "hybrid-1/train", "job-master/master",
    ]  # fmt: skip
    assert spans.below("hybrid-0/train") == ["word", "drain", "export", "offload"]
    assert len({span.context.trace_id for span in spans.all()}) == 1


def test_spans_have_the_times_of_the_record(spans: Spans) -> None:
    record = switch_record(num_pods=1)

    spans.tracer.record(record)

    root, export = spans.one("switch TrainToInfer"), spans.one("export")
    assert root.parent is None
    assert root.start_time == round(STARTED_AT * 1e9)
    assert (root.end_time - root.start_time) / 1e9 == pytest.approx(record.seconds, abs=1e-6)
    assert (export.end_time - export.start_time) / 1e9 == pytest.approx(0.1, abs=1e-6)


def test_spans_tell_job_epoch_and_critical_path(spans: Spans) -> None:
    spans.tracer.record(switch_record(epoch=9))

    root = spans.one("switch TrainToInfer")
    assert root.attributes["tandem.epoch"] == 9
    assert root.attributes["tandem.critical_path_share"] == pytest.approx(1, abs=1e-5)
    assert root.attributes["tandem.critical_path"][0].startswith("job-master/master announce 0.004")
    assert root.resource.attributes["tandem.job"] == "reverse-digits"
    assert spans.one("publish").attributes["tandem.waits"] is False


def test_every_switch_is_a_trace_of_its_own(spans: Spans) -> None:
    spans.tracer.record(switch_record(epoch=1))
    spans.tracer.record(switch_record(epoch=2))

    assert len({span.context.trace_id for span in spans.all()}) == 2


def test_other_records_have_no_spans(spans: Spans) -> None:
    spans.tracer.record(RunEnded(at=0, result="Completed"))

    assert spans.all() == []


def test_a_collector_gets_the_spans_before_the_master_has_ended(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server.server_address[1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)

    with open_tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, JOB) as tracer:
        assert tracer is not None
        tracer.record(switch_record())

    paths = {path for path, _ in collector.requests}
    assert paths == {"/v1/traces"}
    assert b"hybrid-1/rollout" in b"".join(body for _, body in collector.requests)


def test_without_a_collector_no_package_is_imported() -> None:
    program = (
        "import sys\n"
        "from tandem_master.tracing import JobName, open_tracer\n"
        "with open_tracer({}, JobName('a', 'b')) as tracer:\n"
        "    print(tracer, [name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "None []\n"


def test_without_the_packages_the_job_runs_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, EXPORTER_MODULE, None)

    with open_tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, JOB) as tracer:
        assert tracer is None

    assert "pip install 'tandem-rl[otel]'" in caplog.text
