"""A member's metrics, as Prometheus reads them."""

from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tandem_api.job.status import Direction, Phase
from tandem_api.metrics import STAGES, SWITCH_BUCKETS_SECONDS, Activity, Interruption, SwitchResult, Wait
from tandem_api.registry import FailureReason, MemberStatus, StageSpan
from tandem_checkpoint.metrics import EngineMetrics
from tandem_checkpoint.status_meter import StatusMeter
from tandem_checkpoint.switch.protocol import TABLES, State, public_state

TO_INFER, TO_TRAIN = Direction.TRAIN_TO_INFER, Direction.INFER_TO_TRAIN
HISTOGRAM = "tandem_phase_switch_duration_seconds"


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def read(metrics: EngineMetrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples that a scrape gives, by name and labels."""
    families = text_string_to_metric_families(metrics.rendered().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: EngineMetrics, name: str, **labels: str) -> float | None:
    return read(metrics).get((name, frozenset(labels.items())))


def switches(metrics: EngineMetrics) -> dict[tuple[str, str, str], float]:
    """Return how many switches there were, by direction, result and reason; those that never were are left out."""
    found = {}
    for (name, labels), count in read(metrics).items():
        if name == "tandem_engine_switches_total" and count:
            by_name = dict(labels)
            found[by_name["direction"], by_name["result"], by_name["reason"]] = count
    return found


def status(state: State, epoch: int, *stages: StageSpan, **fields: object) -> MemberStatus:
    return MemberStatus.model_validate(
        {"incarnation": "a", "epoch": epoch, "state": public_state(state), "stage": state, "stages": stages, **fields}
    )


def span(stage: str, started_at: float, seconds: float) -> StageSpan:
    return StageSpan(stage=stage, started_at=started_at, seconds=seconds)


def test_a_stage_is_in_the_histogram_of_its_direction() -> None:
    metrics = EngineMetrics()

    metrics.stage(TO_INFER, "export", 0.07)

    assert value(metrics, f"{HISTOGRAM}_bucket", direction=TO_INFER, stage="export", le="0.063") == 0
    assert value(metrics, f"{HISTOGRAM}_bucket", direction=TO_INFER, stage="export", le="0.08") == 1
    assert value(metrics, f"{HISTOGRAM}_sum", direction=TO_INFER, stage="export") == 0.07


def test_buckets_are_dense_from_a_twentieth_of_a_second_to_five_minutes() -> None:
    dense = [bucket for bucket in SWITCH_BUCKETS_SECONDS if bucket >= 0.05]

    assert (dense[0], dense[-1]) == (0.05, 300)
    assert max(later / earlier for earlier, later in pairwise(dense)) < 1.3
    assert list(SWITCH_BUCKETS_SECONDS) == sorted(SWITCH_BUCKETS_SECONDS)


def test_a_stage_that_nobody_knows_cannot_make_a_series_of_its_own() -> None:
    metrics = EngineMetrics()

    metrics.stage(TO_TRAIN, "hybrid-17 is slow", 1)

    assert value(metrics, f"{HISTOGRAM}_count", direction=TO_TRAIN, stage="other") == 1


def test_a_switch_is_counted_by_result_and_reason() -> None:
    metrics = EngineMetrics()

    metrics.switch_ended(TO_INFER, SwitchResult.DONE, seconds=1.5)
    metrics.switch_ended(TO_INFER, SwitchResult.FAILED, FailureReason.FETCH)

    assert switches(metrics) == {("TrainToInfer", "Done", ""): 1, ("TrainToInfer", "Failed", "FetchFailed"): 1}
    assert value(metrics, f"{HISTOGRAM}_sum", direction=TO_INFER, stage="member") == 1.5


def test_a_missed_deadline_is_a_metric_of_its_own() -> None:
    metrics = EngineMetrics()

    metrics.switch_ended(TO_INFER, SwitchResult.FAILED, FailureReason.DEADLINE)
    metrics.switch_ended(TO_INFER, SwitchResult.FAILED, FailureReason.TOKEN)
    metrics.deadline_missed(Wait.ABORT)

    assert value(metrics, "tandem_engine_missed_deadlines_total", wait="switch") == 1
    assert value(metrics, "tandem_engine_missed_deadlines_total", wait="token") == 1
    assert value(metrics, "tandem_engine_missed_deadlines_total", wait="abort") == 1
    assert value(metrics, "tandem_engine_missed_deadlines_total", wait="fetch") == 0


def test_bandwidth_is_bytes_over_seconds_and_the_last_is_shown() -> None:
    metrics = EngineMetrics()

    metrics.exported(1000, 0.5)
    metrics.exported(3000, 0.5)
    metrics.bound(4000, 0.0)
    metrics.fetched(100, 2.0)

    assert value(metrics, "tandem_engine_weights_bytes_total", way="export") == 4000
    assert value(metrics, "tandem_engine_weights_seconds_total", way="export") == 1
    assert value(metrics, "tandem_engine_weights_bytes_per_second", way="export") == 6000
    assert value(metrics, "tandem_engine_weights_bytes_per_second", way="fetch") == 50
    assert value(metrics, "tandem_engine_weights_bytes_total", way="bind") == 4000
    assert value(metrics, "tandem_engine_weights_bytes_per_second", way="bind") is None


def test_time_counts_for_what_the_member_does_up_to_the_scrape() -> None:
    clock = Clock()
    metrics = EngineMetrics(clock)

    clock.now += 1
    metrics.phase(Activity.SWITCHING)
    clock.now += 2
    metrics.phase(Activity.INFER)
    clock.now += 4

    assert value(metrics, "tandem_engine_activity_seconds_total", activity="Idle") == 1
    assert value(metrics, "tandem_engine_activity_seconds_total", activity="Switching") == 2
    assert value(metrics, "tandem_engine_activity_seconds_total", activity="Infer") == 4
    assert value(metrics, "tandem_engine_activity_seconds_total", activity="Train") == 0


def test_processes_and_leases_that_end_are_counted() -> None:
    metrics = EngineMetrics()

    metrics.child_ended("server")
    metrics.lease_lost()

    assert value(metrics, "tandem_engine_children_ended_total", child="server") == 1
    assert value(metrics, "tandem_engine_children_ended_total", child="rank") == 0
    assert value(metrics, "tandem_engine_lost_leases_total") == 1


def test_two_members_in_one_process_share_nothing() -> None:
    one, other = EngineMetrics(), EngineMetrics()

    one.child_ended("zygote")

    assert value(other, "tandem_engine_children_ended_total", child="zygote") == 0


def test_every_name_of_a_stage_is_a_label() -> None:
    assert {"export", "ready", "token", "publish"} <= STAGES
    assert "total" not in STAGES


def test_every_value_that_a_reason_can_have_is_different() -> None:
    reasons = [*FailureReason, *Interruption]

    assert len({str(reason) for reason in reasons}) == len(reasons)


def test_a_status_shows_what_the_member_holds() -> None:
    metrics = EngineMetrics()

    StatusMeter(metrics).told(status(State.SERVING, 7, generation=3, device_bytes=1 << 30), Phase.INFER)

    assert value(metrics, "tandem_engine_epoch") == 7
    assert value(metrics, "tandem_engine_generation") == 3
    assert value(metrics, "tandem_engine_device_bytes") == 1 << 30


def test_a_switch_is_counted_when_it_is_over_with_all_its_stages() -> None:
    metrics = EngineMetrics()
    meter = StatusMeter(metrics)
    drain, export = span("drain", 10.0, 0.1), span("export", 10.1, 0.4)

    meter.told(status(State.TRAINING, 4), Phase.TRAIN)
    meter.told(status(State.DRAINING, 5), Phase.INFER)
    meter.told(status(State.EXPORTING, 5, drain), Phase.INFER)
    meter.told(status(State.IDLE, 5, drain, export), Phase.INFER)

    assert switches(metrics) == {("TrainToInfer", "Done", ""): 1}
    assert value(metrics, f"{HISTOGRAM}_count", direction=TO_INFER, stage="drain") == 1
    assert value(metrics, f"{HISTOGRAM}_sum", direction=TO_INFER, stage="export") == 0.4
    assert value(metrics, f"{HISTOGRAM}_sum", direction=TO_INFER, stage="member") == 0.5


def test_a_switch_that_fails_is_counted_with_its_reason() -> None:
    metrics = EngineMetrics()
    meter = StatusMeter(metrics)

    meter.told(status(State.GATHERING, 5), Phase.INFER)
    meter.told(status(State.FAILED, 5, reason=FailureReason.BROKEN_SEGMENT), Phase.INFER)

    assert switches(metrics) == {("TrainToInfer", "Failed", "BrokenSegment"): 1}


def test_a_switch_that_a_newer_word_ends_is_overtaken() -> None:
    metrics = EngineMetrics()
    meter = StatusMeter(metrics)

    meter.told(status(State.GATHERING, 5), Phase.INFER)
    meter.told(status(State.ABORTING, 6), Phase.TRAIN)
    meter.told(status(State.IDLE, 6), Phase.TRAIN)

    assert switches(metrics) == {("TrainToInfer", "Overtaken", ""): 1, ("InferToTrain", "Done", ""): 1}


def test_a_lease_that_is_lost_in_a_switch_counts_once_and_fails_it() -> None:
    metrics = EngineMetrics()
    meter = StatusMeter(metrics)

    meter.told(status(State.EXPORTING, 5), Phase.INFER)
    meter.told(status(State.REJOINING, 0), None)
    meter.told(status(State.IDLE, 0, incarnation="b"), None)
    meter.told(status(State.EXPORTING, 5, incarnation="b"), Phase.INFER)
    meter.told(status(State.IDLE, 5, incarnation="b"), Phase.INFER)

    assert switches(metrics) == {("TrainToInfer", "Failed", "LeaseLost"): 1, ("TrainToInfer", "Done", ""): 1}
    assert value(metrics, "tandem_engine_lost_leases_total") == 1


def test_a_group_that_starts_anew_in_a_switch_fails_it_and_does_it_again() -> None:
    metrics = EngineMetrics()
    meter = StatusMeter(metrics)

    meter.told(status(State.RELOADING, 6), Phase.TRAIN)
    meter.told(status(State.STARTING, 0), None)
    meter.told(status(State.RELOADING, 6), Phase.TRAIN)
    meter.told(status(State.TRAINING, 6), Phase.TRAIN)

    assert switches(metrics) == {("InferToTrain", "Failed", "ChildGone"): 1, ("InferToTrain", "Done", ""): 1}


def test_a_server_that_is_revived_adds_stages_but_no_switch() -> None:
    metrics = EngineMetrics()
    meter = StatusMeter(metrics)
    load, again = span("load", 10.0, 0.2), span("load", 50.0, 0.3)

    meter.told(status(State.LOADING, 5), Phase.INFER)
    meter.told(status(State.SERVING, 5, load), Phase.INFER)
    meter.told(status(State.REVIVING, 5, load), Phase.INFER)
    meter.told(status(State.SERVING, 5, load, again), Phase.INFER)
    meter.told(status(State.REVIVING, 5, load, again), Phase.INFER)
    meter.told(status(State.ABORTING, 6), Phase.TRAIN)

    assert switches(metrics) == {("TrainToInfer", "Done", ""): 1}
    assert value(metrics, f"{HISTOGRAM}_count", direction=TO_INFER, stage="load") == 2


@pytest.mark.parametrize("state", sorted({state for table in TABLES.values() for state, _ in table}))
def test_every_state_of_the_protocol_can_be_told(state: State) -> None:
    metrics = EngineMetrics()

    StatusMeter(metrics).told(status(state, 1), Phase.INFER)

    assert value(metrics, "tandem_engine_epoch") == 1


def test_the_state_of_a_member_says_what_its_time_goes_to() -> None:
    clock = Clock()
    metrics = EngineMetrics(clock)
    meter = StatusMeter(metrics)

    meter.told(status(State.SERVING, 1), Phase.INFER)
    clock.now += 3
    meter.told(status(State.FAILED, 1), Phase.INFER)
    clock.now += 5

    assert value(metrics, "tandem_engine_activity_seconds_total", activity="Infer") == 3
    assert value(metrics, "tandem_engine_activity_seconds_total", activity="Idle") == 5
