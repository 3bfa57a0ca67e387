"""What is kept of one job between two looks."""

from typing import Any

from tandem_operator.reconcile.record import JobRecord, Place
from tests.tandem_operator.reconcile.operators import running
from tests.tandem_operator.reconcile.world import World

PLACE = Place(etcd_endpoints=("etcd:2379",))


def body_at(version: str, **status: Any) -> dict[str, Any]:
    """Return the body of a valid job at a resource version."""
    body = World.with_job().body
    body["metadata"]["resourceVersion"] = version
    return {**body, "status": status}


def test_a_newer_body_replaces_the_one_before() -> None:
    record = JobRecord(body_at("9"))

    record.renew(body_at("10", attempt=2))

    assert record.status().attempt == 2


def test_an_older_body_that_a_slow_watch_brings_is_left_out() -> None:
    record = JobRecord(body_at("10", attempt=2))

    record.renew(body_at("9", attempt=1))

    assert record.status().attempt == 2


def test_a_job_is_parsed_once_a_generation() -> None:
    record = JobRecord(body_at("1"))
    first = record.parse()
    record.renew(body_at("2"))

    assert record.parse() is first


def test_a_new_generation_is_parsed_anew() -> None:
    record = JobRecord(body_at("1"))
    record.parse()
    newer = body_at("2")
    newer["metadata"]["generation"] = 2
    newer["spec"]["suspend"] = True
    record.renew(newer)

    job = record.parse()

    assert job is not None
    assert job.spec.suspend


def test_a_body_that_is_no_valid_job_is_explained_in_one_line() -> None:
    body = body_at("1")
    body["spec"]["hybrid"]["replicas"] = "many"
    record = JobRecord(body)

    assert record.parse() is None
    assert record.problem is not None
    assert record.problem.startswith("spec.hybrid.replicas: ")
    assert "\n" not in record.problem


def test_a_job_without_a_status_is_at_its_first_attempt() -> None:
    assert JobRecord(body_at("1")).status().attempt == 0


def test_status_fields_of_another_version_are_left_out() -> None:
    record = JobRecord(body_at("1", attempt=3, weather="fine"))

    assert record.status().attempt == 3


def test_counts_outlive_fields_that_are_not_understood() -> None:
    status = JobRecord(body_at("1", attempt=3, restarts=2, hybrid="two", startTime="2026-01-01T12:00:00Z")).status()

    assert (status.attempt, status.restarts, status.start_time) == (3, 2, "2026-01-01T12:00:00Z")
    assert status.hybrid is None


def test_counts_outlive_counts_that_are_not_understood() -> None:
    status = JobRecord(body_at("1", attempt=3, restarts=-1, handledFailures=["x"] * 99)).status()

    assert (status.attempt, status.restarts, status.handled_failures) == (3, 0, ())


def test_an_ended_job_stays_ended_beside_conditions_of_another_version() -> None:
    operator = running()
    operator.world.complete()
    operator.hear()
    operator.look()
    told = operator.world.body["status"]["conditions"]
    told[0]["severity"] = "high"
    told.append({"type": "Degraded", "status": "True", "reason": "Slow", "message": ""})
    record = JobRecord(operator.world.body)

    kept = {item.type.value: item.status for item in record.status().conditions}

    assert kept["Completed"] == "True"
    assert kept["Admitted"] == "False"
    assert "Degraded" not in kept


def test_a_job_is_planned_once_a_generation_and_attempt() -> None:
    record = JobRecord(body_at("1"))
    job = record.parse()
    assert job is not None
    first = record.plan(job, 0, PLACE)

    assert record.plan(job, 0, PLACE) is first
    assert record.plan(job, 1, PLACE) is not first


def test_a_spec_that_the_planner_refuses_has_no_plan_and_a_problem() -> None:
    body = body_at("1")
    body["spec"]["podTemplate"] = {"spec": {"containers": [{"name": "extra"}]}}
    record = JobRecord(body)
    job = record.parse()
    assert job is not None

    wanted = record.plan(job, 0, PLACE)

    assert wanted.plan is None
    assert wanted.problem == "spec.podTemplate.spec.containers[extra]: is no container of this job; use " + _names(
        wanted.problem
    )


def _names(problem: str | None) -> str:
    return (problem or "").rpartition("; use ")[2]
