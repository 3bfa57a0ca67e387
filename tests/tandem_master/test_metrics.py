"""The master's metrics, as Prometheus reads them."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tandem_api.history import CheckpointRecord, IterationRecord, PhaseRecord, RunStarted
from tandem_api.job.status import Direction, Phase
from tandem_api.metrics import Interruption
from tandem_api.registry import FailureReason
from tandem_master.metrics import MasterMetrics
from tests.tandem_master.switches import switch_record

HISTOGRAM = "tandem_phase_switch_duration_seconds"
TO_INFER = "TrainToInfer"


def value(metrics: MasterMetrics, name: str, **labels: str) -> float | None:
    """Return one sample of a scrape; None where there is none."""
    families = text_string_to_metric_families(metrics.rendered().decode())
    samples = [sample for family in families for sample in family.samples]
    return next((sample.value for sample in samples if (sample.name, sample.labels) == (name, labels)), None)


def iteration(number: int) -> IterationRecord:
    return IterationRecord(
        iteration=number, generation=number, at=0, seconds=4, reward=0.25, response_tokens=5, finished=8, unfinished=0,
        trained=8, sampled_tokens=40, tokens_per_second=10, max_abs_logprob_difference=0, kl=0, loss=0,
        gradient_norm=0, learning_rate=2.5e-7,
    )  # fmt: skip


def test_a_switch_is_observed_as_a_whole_and_by_the_masters_own_stages() -> None:
    metrics, record = MasterMetrics(), switch_record()

    metrics.record(record)

    assert value(metrics, f"{HISTOGRAM}_sum", direction=TO_INFER, stage="total") == record.seconds
    assert value(metrics, f"{HISTOGRAM}_count", direction=TO_INFER, stage="publish") == 1
    assert value(metrics, f"{HISTOGRAM}_count", direction=TO_INFER, stage="export") is None
    assert value(metrics, "tandem_job_switches_total", direction=TO_INFER, result="Done", reason="") == 1
    assert value(metrics, "tandem_job_epoch") == record.epoch


def test_the_critical_path_adds_up_to_the_time_of_the_switches() -> None:
    metrics, record = MasterMetrics(), switch_record()

    metrics.record(record)

    families = {family.name: family for family in text_string_to_metric_families(metrics.rendered().decode())}
    samples = families["tandem_job_critical_path_seconds"].samples
    seconds = {sample.labels["stage"]: sample.value for sample in samples if sample.name.endswith("_total")}
    assert sum(seconds.values()) == pytest.approx(record.seconds)
    assert seconds["start"] == pytest.approx(0.6, abs=1e-5)
    assert {"notice", "unexplained"} <= seconds.keys()


def test_a_switch_without_a_path_counts_all_the_same() -> None:
    metrics = MasterMetrics()

    metrics.record(switch_record().model_copy(update={"critical_path": None}))

    assert value(metrics, f"{HISTOGRAM}_count", direction=TO_INFER, stage="total") == 1


def test_the_first_switch_which_waits_for_processes_has_no_part_in_the_critical_path() -> None:
    metrics = MasterMetrics()

    metrics.record(switch_record().model_copy(update={"first": True}))

    assert value(metrics, f"{HISTOGRAM}_count", direction=TO_INFER, stage="total") == 1
    assert "tandem_job_critical_path_seconds_total{" not in metrics.rendered().decode()


def test_the_time_of_the_job_goes_to_phases_and_switches() -> None:
    metrics, record = MasterMetrics(), switch_record()

    metrics.record(record)
    metrics.record(PhaseRecord(phase=Phase.INFER, epoch=3, iteration=2, started_at=0, seconds=12))
    metrics.record(PhaseRecord(phase=Phase.TRAIN, epoch=4, iteration=2, started_at=12, seconds=3))

    assert value(metrics, "tandem_job_activity_seconds_total", activity="Infer") == 12
    assert value(metrics, "tandem_job_activity_seconds_total", activity="Train") == 3
    assert value(metrics, "tandem_job_activity_seconds_total", activity="Switching") == record.seconds


def test_a_resumed_run_begins_at_its_iteration_and_counts_those_that_it_commits() -> None:
    metrics = MasterMetrics()

    metrics.record(RunStarted(at=0, job="job", iteration=5, iterations=9))
    metrics.record(iteration(6))

    assert value(metrics, "tandem_job_iteration") == 6
    assert value(metrics, "tandem_job_iterations_total") == 1
    assert value(metrics, "tandem_job_sampled_tokens_total") == 40
    assert value(metrics, "tandem_job_reward") == 0.25
    assert value(metrics, "tandem_job_learning_rate") == 2.5e-7


def test_an_iteration_without_a_step_leaves_the_learning_rate_as_it_was() -> None:
    metrics = MasterMetrics()

    metrics.record(iteration(1))
    metrics.record(iteration(2).model_copy(update={"learning_rate": None}))

    assert value(metrics, "tandem_job_learning_rate") == 2.5e-7


def test_groups_and_what_was_cut_or_drawn_again_are_counted() -> None:
    metrics = MasterMetrics()

    metrics.record(
        iteration(1).model_copy(update={"repeats": 4, "groups": 5, "groups_without_signal": 2, "refills": 1})
    )

    assert value(metrics, "tandem_job_groups_total", signal="yes") == 3
    assert value(metrics, "tandem_job_groups_total", signal="no") == 2
    assert value(metrics, "tandem_job_refills_total") == 1
    assert value(metrics, "tandem_job_repeats_total") == 4


def test_a_switch_that_fails_is_counted_with_its_reason_and_a_missed_deadline_too() -> None:
    metrics = MasterMetrics()

    metrics.switch_failed(Direction.INFER_TO_TRAIN, FailureReason.DEADLINE)
    metrics.switch_failed(Direction.INFER_TO_TRAIN, Interruption.MEMBER_GONE)

    labels = {"direction": "InferToTrain", "result": "Failed"}
    assert value(metrics, "tandem_job_switches_total", **labels, reason="DeadlinePassed") == 1
    assert value(metrics, "tandem_job_switches_total", **labels, reason="MemberGone") == 1
    assert value(metrics, "tandem_job_missed_deadlines_total", wait="switch") == 1


def test_checkpoints_are_counted_by_how_they_ended_and_what_the_job_waited() -> None:
    metrics = MasterMetrics()
    done = CheckpointRecord(at=9.0, generation=3, seconds=5.0, waited_seconds=0.25, num_bytes=8)

    metrics.record(done)
    metrics.record(done.model_copy(update={"error": "the disk is full", "waited_seconds": 0.5}))

    assert value(metrics, "tandem_job_checkpoints_total", result="Done") == 1
    assert value(metrics, "tandem_job_checkpoints_total", result="Failed") == 1
    assert value(metrics, "tandem_job_checkpoint_wait_seconds_total") == 0.75
