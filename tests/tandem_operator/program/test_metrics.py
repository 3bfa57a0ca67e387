"""The operator's own numbers."""

import pytest

from tandem_operator.kube.transport import Sample
from tandem_operator.program.metrics import Metrics


@pytest.mark.parametrize(
    "name",
    [
        "tandem_operator_reconcile_duration_seconds_bucket",
        "tandem_operator_reconcile_errors_total",
        "tandem_operator_queue_depth",
        "tandem_operator_watch_age_seconds",
        "tandem_operator_api_writes_total",
        "tandem_operator_leader",
        "tandem_operator_build_info",
        "tandem_operator_registry_unreachable_seconds",
        "tandem_operator_loop_lag_seconds",
        "tandem_rljob_condition",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ],
)
def test_every_series_has_its_name(name: str) -> None:
    metrics = Metrics("0.1.0", "me")
    metrics.observe_reconcile(0.2)
    metrics.count_error("Conflict")
    metrics.count_request(Sample("patch", "pods", 200, 0.1))
    metrics.show_watch_age("RLJob", 3.0)
    metrics.conditions.note("team", "digits", {"Admitted": "True"})

    assert f"\n{name}" in metrics.text().decode()


def test_reads_are_not_counted_as_writes() -> None:
    metrics = Metrics()

    metrics.count_request(Sample("list", "pods", 200, 0.1))
    metrics.count_request(Sample("create", "pods", 201, 0.1))

    lines = [
        line for line in metrics.text().decode().splitlines() if line.startswith("tandem_operator_api_writes_total")
    ]
    assert lines == ['tandem_operator_api_writes_total{kind="pods",verb="create"} 1.0']


def test_a_failed_pass_is_timed_too() -> None:
    metrics = Metrics()

    with pytest.raises(ValueError, match="broken"), metrics.timed_reconcile():
        raise ValueError("broken")

    assert "tandem_operator_reconcile_duration_seconds_count 1.0" in metrics.text().decode()


def test_conditions_are_counted_by_type_and_status() -> None:
    metrics = Metrics()

    metrics.conditions.note("team", "a", {"Progressing": "True"})
    metrics.conditions.note("team", "b", {"Progressing": "True"})
    metrics.conditions.note("team", "b", {"Progressing": "False"})

    text = metrics.text().decode()
    assert 'tandem_rljob_condition{status="True",type="Progressing"} 1.0' in text
    assert 'tandem_rljob_condition{status="False",type="Progressing"} 1.0' in text


def test_a_job_that_is_gone_is_not_counted() -> None:
    metrics = Metrics()
    metrics.conditions.note("team", "a", {"Failed": "True"})

    metrics.conditions.forget("team", "a")
    metrics.conditions.forget("team", "never-seen")

    assert 'tandem_rljob_condition{status="True",type="Failed"} 0.0' in metrics.text().decode()


def test_no_label_ever_holds_the_name_of_a_job() -> None:
    metrics = Metrics()

    metrics.conditions.note("team", "digits", {"Failed": "True"})

    assert "digits" not in metrics.text().decode()
