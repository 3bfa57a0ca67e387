"""How a job ends, and what is left of it."""

from datetime import timedelta

from tests.tandem_operator.reconcile.operators import Operator, finish_all, running, settle, wait_for
from tests.tandem_operator.reconcile.world import ITERATIONS


def test_a_job_is_complete_when_its_master_ended_well_after_the_last_iteration() -> None:
    operator = running()
    operator.world.complete()

    settle(operator)

    assert operator.world.condition("Completed") == ("True", "Completed", "all 3 iterations are done")
    assert operator.world.condition("Failed")[:2] == ("False", "Completed")
    assert operator.world.condition("Admitted") == ("False", "Completed", "the job is over")
    assert operator.world.status.phase == "Completed"
    assert operator.world.status.completion_time == "2026-01-01T12:00:00Z"


def test_the_end_frees_the_devices_and_keeps_the_pod_of_the_master_for_its_log() -> None:
    operator = running()
    operator.world.complete()

    finish_all(settle(operator))

    assert operator.world.names == ["master"]


def test_the_end_is_told_by_one_event() -> None:
    operator = running()
    operator.world.complete()

    finish_all(settle(operator))

    assert operator.world.reasons()[2:] == ["Completed"]


def test_a_master_that_runs_beside_a_container_of_its_user_completes_the_job() -> None:
    operator = running()
    operator.world.complete()
    operator.world.pods["math-8b-master"]["status"]["phase"] = "Running"

    settle(operator)

    assert operator.world.condition("Completed")[0] == "True"


def test_a_job_whose_master_was_deleted_after_its_last_word_is_complete() -> None:
    operator = running()
    operator.world.complete()
    operator.world.delete_pod("math-8b-master")

    settle(operator)

    assert operator.world.condition("Completed")[0] == "True"


def test_a_master_that_stopped_before_the_last_iteration_is_a_failure() -> None:
    operator = running()
    operator.world.speak(activity="stopped")
    operator.world.end_container("math-8b-master", "master", 0)

    settle(operator)

    assert operator.world.condition("Progressing")[:2] == ("False", "Restarting")
    assert operator.world.status.restarts == 1


def test_the_last_word_of_a_master_that_ended_well_may_come_later_than_its_end() -> None:
    operator = running()
    operator.world.end_container("math-8b-master", "master", 0)
    settle(operator)
    assert operator.decide().wake_after_seconds == 15.0
    operator.world.now += timedelta(seconds=10)
    operator.world.speak(iteration=ITERATIONS, activity="completed")

    settle(operator)

    assert operator.world.condition("Completed")[0] == "True"
    assert operator.world.status.restarts == 0


def test_a_last_word_that_does_not_come_is_waited_for_no_longer() -> None:
    operator = running()
    operator.world.end_container("math-8b-master", "master", 0)

    wait_for(settle(operator), 16)

    assert operator.world.status.restarts == 1


def test_a_job_fails_when_its_restarts_are_used_up() -> None:
    operator = running(failurePolicy={"maxRestarts": 0})
    operator.world.end_container("math-8b-hybrid-0", "trainer", 7)

    settle(operator)

    cause = "math-8b-hybrid-0: container trainer ended with exit code 7 (Error)"
    told = f"spec.failurePolicy.maxRestarts: 0 restarts are used up; the last cause: {cause}"
    assert operator.world.condition("Failed") == ("True", "MaxRestartsExceeded", told)
    assert operator.world.reasons()[2:] == ["MaxRestartsExceeded"]
    assert operator.world.status.restarts == 0


def test_a_job_fails_by_a_rule_that_says_so_whatever_else_has_failed() -> None:
    rules = [{"match": {"exitCodes": [42]}, "action": "FailJob"}]
    operator = running(failurePolicy={"rules": rules})
    operator.world.end_container("math-8b-hybrid-0", "trainer", 1)
    operator.world.end_container("math-8b-hybrid-1", "trainer", 42)

    settle(operator)

    told = "math-8b-hybrid-1: container trainer ended with exit code 42 (Error)"
    assert operator.world.condition("Failed") == ("True", "FailurePolicy", told)


def test_a_job_that_fails_says_what_its_master_said() -> None:
    operator = running(failurePolicy={"maxRestarts": 0})
    operator.world.speak(activity="failed", error="data/math.jsonl:3: no answer; add one")
    operator.world.end_container("math-8b-master", "master", 1)

    wait_for(operator, 5)

    assert operator.world.condition("Failed")[2].endswith("; it says: data/math.jsonl:3: no answer; add one")


def test_a_job_fails_at_its_active_deadline_and_lets_its_master_save_first() -> None:
    operator = running(activeDeadlineSeconds=600)
    assert operator.decide().wake_after_seconds == 600.0

    wait_for(operator, 600)

    told = "spec.activeDeadlineSeconds: 600 s have passed; give it more"
    assert operator.world.condition("Failed") == ("True", "DeadlineExceeded", told)
    assert operator.world.going == ["master"]


def test_a_failed_job_lets_its_members_go_after_its_master() -> None:
    operator = wait_for(running(activeDeadlineSeconds=600), 600)

    finish_all(finish_all(operator))

    assert operator.world.names == []


def test_a_job_is_deleted_when_its_time_to_live_is_over_and_not_before() -> None:
    operator = running(ttlSecondsAfterFinished=60)
    operator.world.complete()
    finish_all(settle(operator))
    assert operator.decide().wake_after_seconds == 60.0

    wait_for(operator, 59)
    assert not operator.world.gone
    wait_for(operator, 1)

    assert operator.world.gone


def test_a_job_that_runs_is_never_deleted() -> None:
    operator = wait_for(running(ttlSecondsAfterFinished=0), 10_000)

    assert not operator.world.gone


def test_a_job_with_no_time_to_live_is_deleted_once_its_master_has_ended() -> None:
    operator = running(ttlSecondsAfterFinished=0, activeDeadlineSeconds=600)
    wait_for(operator, 600)
    assert not operator.world.gone

    finish_all(operator)

    assert operator.world.gone


def test_nothing_that_comes_after_the_end_takes_it_back() -> None:
    operator = running()
    operator.world.complete()
    finish_all(settle(operator))
    operator.world.edit("rollout.elastic.replicas", 3)
    operator.world.delete_pod("math-8b-master")

    finish_all(settle(Operator(operator.world)))

    assert operator.world.names == []
    assert operator.world.condition("Completed")[0] == "True"
