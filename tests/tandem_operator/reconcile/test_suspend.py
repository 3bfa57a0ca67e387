"""Suspending a job and letting it go on."""

from datetime import timedelta

from tests.tandem_operator.reconcile.operators import Operator, finish_all, running, settle, start_all, wait_for
from tests.tandem_operator.reconcile.world import World


def suspended() -> Operator:
    """Return an operator of a job that was suspended and has no pod left."""
    operator = running()
    operator.world.edit("suspend", True)
    return finish_all(finish_all(settle(operator)))


def test_a_suspended_job_ends_its_master_first_and_the_members_after_it() -> None:
    operator = running()
    operator.world.edit("suspend", True)

    settle(operator)
    first = operator.world.going
    finish_all(operator)

    assert first == ["master"]
    assert operator.world.going == ["hybrid-0", "hybrid-1"]


def test_suspended_becomes_true_only_when_no_pod_is_left() -> None:
    operator = running()
    operator.world.edit("suspend", True)

    finish_all(settle(operator))
    before = operator.world.condition("Suspended")
    finish_all(operator)

    assert before == ("False", "Suspending", "2 pods are ending")
    assert operator.world.condition("Suspended")[:2] == ("True", "Suspended")
    assert operator.world.condition("Admitted") == ("False", "Suspended", "spec.suspend is true")
    assert operator.world.status.phase == "Suspended"


def test_a_suspension_is_one_more_attempt_and_no_restart() -> None:
    world = suspended().world

    assert world.status.attempt == 1
    assert world.status.restarts == 0


def test_a_suspension_is_told_twice_when_it_begins_and_when_it_is_done() -> None:
    world = suspended().world

    assert world.reasons()[2:] == ["Suspending", "Suspended"]


def test_a_job_that_was_made_suspended_gets_no_pod_and_stays_at_its_first_attempt() -> None:
    world = settle(Operator(World.with_job(suspend=True))).world

    assert world.pods == {}
    assert world.status.attempt == 0
    assert world.condition("Suspended")[0] == "True"
    assert world.status.start_time is None


def test_a_resumed_job_gets_pods_of_the_new_attempt_and_keeps_its_iteration() -> None:
    operator = suspended()
    operator.world.edit("suspend", False)

    settle(operator)

    assert operator.world.made[1] == ["math-8b-hybrid-0", "math-8b-hybrid-1", "math-8b-master"]
    assert operator.world.status.iteration == 1
    assert operator.world.condition("Suspended")[:2] == ("False", "NotSuspended")


def test_the_active_deadline_counts_anew_after_a_suspension() -> None:
    operator = suspended()
    operator.world.edit("activeDeadlineSeconds", 600)
    operator.world.now += timedelta(hours=9)
    operator.world.edit("suspend", False)

    settle(operator)

    assert operator.world.status.start_time == "2026-01-01T21:00:00Z"
    assert not operator.world.has_ended


def test_a_job_resumed_while_its_master_saves_lets_it_save_before_its_trainers_go() -> None:
    operator = running()
    operator.world.edit("suspend", True)
    settle(operator)
    operator.world.edit("suspend", False)

    settle(operator)

    assert operator.world.going == ["master"]
    assert operator.world.condition("Progressing")[:2] == ("False", "OldPodsEnding")


def test_a_job_resumed_in_the_middle_of_suspending_comes_back_whole_and_without_a_restart() -> None:
    operator = running()
    operator.world.edit("suspend", True)
    finish_all(settle(operator))
    operator.world.edit("suspend", False)

    start_all(finish_all(settle(operator)))

    assert operator.world.names == ["hybrid-0", "hybrid-1", "master"]
    assert operator.world.attempts() == {1}
    assert operator.world.status.restarts == 0
    assert operator.world.condition("Progressing")[:2] == ("True", "Starting")


def test_an_operator_that_starts_after_the_master_went_removes_the_members() -> None:
    operator = running()
    operator.world.edit("suspend", True)
    operator.hear()
    operator.look()
    operator.look()
    operator.world.finish("math-8b-master")

    settle(Operator(operator.world))

    assert operator.world.going == ["hybrid-0", "hybrid-1"]
    assert operator.world.status.attempt == 1


def test_a_job_suspended_again_before_its_new_pods_were_told_of_begins_one_more_attempt() -> None:
    operator = suspended()
    world = operator.world
    world.edit("suspend", False)
    operator.hear()
    operator.look()
    world.body["status"]["conditions"] = [
        item | ({"reason": "Suspended", "status": "False"} if item["type"] == "Progressing" else {})
        for item in world.body["status"]["conditions"]
    ]
    world.edit("suspend", True)

    settle(Operator(world))

    assert world.status.attempt == 2
    assert world.names == []


def test_a_master_on_a_lost_node_holds_up_a_suspension_for_a_minute_only() -> None:
    operator = running()
    operator.world.hang("math-8b-master")
    operator.world.edit("suspend", True)
    settle(operator)

    wait_for(operator, 95)

    assert operator.world.going == ["hybrid-0", "hybrid-1", "master"]
    assert operator.world.condition("PodsScheduled")[1] == "StuckTerminating"
    assert operator.world.condition("Progressing")[2].startswith(
        "math-8b-master was to be gone at 2026-01-01T12:00:30Z"
    )


def test_a_job_that_completes_while_it_is_to_be_suspended_is_complete() -> None:
    operator = running()
    operator.world.complete()
    operator.world.edit("suspend", True)

    settle(operator)

    assert operator.world.condition("Completed")[0] == "True"


def test_a_spec_changed_during_a_suspension_that_nobody_saw_makes_all_pods_anew_without_a_restart() -> None:
    operator = running()
    operator.world.edit("trainer.image", "trainer:2")

    settle(operator)
    message = operator.world.condition("Progressing")
    start_all(finish_all(finish_all(operator)))

    assert message[:2] == ("False", "OldPodsEnding")
    assert operator.world.attempts() == {1}
    assert operator.world.status.restarts == 0
    assert operator.world.names == ["hybrid-0", "hybrid-1", "master"]
