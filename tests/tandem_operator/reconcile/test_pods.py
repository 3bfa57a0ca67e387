"""Pods as they are read from the API server's JSON."""

from datetime import UTC, datetime
from typing import Any

from tandem_operator.reconcile.pods import is_owned, read_pod, read_time


def pod_with(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """Return a pod as the API server tells it."""
    return {"metadata": {"name": "a-hybrid-0", "uid": "u1", **metadata}, "status": status or {}}


def test_a_pod_that_nobody_has_looked_at_yet_is_pending() -> None:
    pod = read_pod({"metadata": {"name": "a", "uid": "u"}})

    assert (pod.phase, pod.ready, pod.scheduled, pod.unschedulable) == ("Pending", False, False, None)
    assert (pod.role, pod.attempt, pod.spec_hash) == ("", 0, "")


def test_an_attempt_that_is_no_number_is_the_first() -> None:
    assert read_pod(pod_with(annotations={"tandem.dev/attempt": "-x"})).attempt == 0


def test_a_container_ended_now_and_once_before() -> None:
    containers = [
        {
            "name": "trainer",
            "restartCount": 2,
            "state": {"terminated": {"exitCode": 1, "reason": "Error", "containerID": "c2"}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "containerID": "c1"}},
        }
    ]

    endings = read_pod(pod_with({"containerStatuses": containers})).endings

    assert [(item.container_id, item.exit_code, item.reason) for item in endings] == [
        ("c2", 1, "Error"),
        ("c1", 137, "OOMKilled"),
    ]


def test_endings_without_an_id_are_told_apart_by_the_number_of_the_start() -> None:
    ended = {"terminated": {"exitCode": 1}}
    containers = [{"name": "trainer", "restartCount": 2, "state": ended, "lastState": ended}]

    endings = read_pod(pod_with({"containerStatuses": containers})).endings

    assert [item.container_id for item in endings] == ["trainer#2", "trainer#1"]


def test_a_container_that_is_being_made_does_not_wait() -> None:
    states = [
        {"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}},
        {"name": "rollout", "state": {"waiting": {"reason": "PodInitializing"}}},
    ]

    assert read_pod(pod_with({"containerStatuses": states})).waiting == ()


def test_a_first_container_that_cannot_start_waits_too() -> None:
    states = [{"name": "fetch", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]

    waiting = read_pod(pod_with({"initContainerStatuses": states})).waiting

    assert [(item.container, item.reason, item.message) for item in waiting] == [("fetch", "ErrImagePull", "not found")]


def test_a_disruption_says_more_than_the_reason_of_the_pod() -> None:
    told = {
        "reason": "NodeShutdown",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "Evicted"}],
    }

    assert read_pod(pod_with(told)).reason == "Evicted"


def test_a_pod_without_a_node_keeps_the_words_of_the_scheduler() -> None:
    told = {
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]
    }

    pod = read_pod(pod_with(told))

    assert (pod.unschedulable, pod.scheduled) == ("0/3 nodes", False)


def test_times_are_read_with_their_zone_and_are_in_utc_without_one() -> None:
    noon = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

    assert read_time("2026-01-01T12:00:00Z") == noon
    assert read_time("2026-01-01T13:00:00+01:00") == noon
    assert read_time("2026-01-01T12:00:00") == noon
    assert read_time("2026-01-01T12:00:00.000000Z") == noon


def test_a_pod_that_was_asked_to_go_says_until_when() -> None:
    pod = read_pod(pod_with(deletionTimestamp="2026-01-01T12:00:30Z", deletionGracePeriodSeconds=30))

    assert pod.deleted_at == datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)
    assert pod.grace_seconds == 30.0


def test_a_pod_belongs_to_the_job_whose_uid_it_names() -> None:
    pod = pod_with(ownerReferences=[{"kind": "RLJob", "name": "a", "uid": "job-1"}])

    assert is_owned(pod, "job-1")
    assert not is_owned(pod, "job-2")
    assert not is_owned(pod_with(), "job-1")
